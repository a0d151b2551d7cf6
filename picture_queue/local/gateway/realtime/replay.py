"""Replay of messages sent to a private topic before a join.

As on the platform: messages of the last 72 hours, the newest 25 at most, oldest first, each marked
as replayed (https://supabase.com/docs/guides/realtime/broadcast#broadcast-replay).
"""

import logging
from dataclasses import dataclass
from typing import Final

import asyncpg

from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.realtime import frames

_logger = logging.getLogger(__name__)

_MOST: Final = 25
_LATEST: Final = 1e15  # milliseconds: some 31,000 years, which Postgres can hold
# `inserted_at` is UTC without saying so.
_MISSED: Final = """
select * from (
  select id, event, payload, inserted_at
  from realtime.messages
  where topic = $1 and private and extension = 'broadcast'
    and inserted_at >= to_timestamp($2 / 1000.0) at time zone 'UTC'
    and inserted_at > now() at time zone 'UTC' - interval '72 hours'
  order by inserted_at desc, id limit $3
) as newest
order by inserted_at, id
"""


@dataclass(frozen=True)
class ReplayRequest:
    """The replay that a join asks for.

    Args:
        since: Unix time in milliseconds.
        limit: How many messages at most.
    """

    since: float
    limit: int

    @classmethod
    def parse(cls, value: object) -> "ReplayRequest | None":
        """Read the value of ``replay``; None where there is none.

        Raises:
            ValueError: It is not what it should be.
        """
        if value is None:
            return None
        since = value.get("since") if isinstance(value, dict) else None
        limit = value.get("limit", _MOST) if isinstance(value, dict) else None
        for number in (since, limit):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError("replay needs a number `since`, and may have one `limit`")
        # Python's whole numbers have no bound, the database's have.
        latest = float(max(-_LATEST, min(since or 0, _LATEST)))
        return cls(since=latest, limit=int(max(1, min(limit or 1, _MOST))))


class History:
    """Reads back what was sent.

    Args:
        database: Where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def missed(self, name: str, request: ReplayRequest) -> list[str]:
        """Return the frames of the messages a topic had; none while the database is away."""
        try:
            async with self._database.connection() as connection:
                rows = await connection.fetch(_MISSED, name, request.since, request.limit)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            _logger.warning("could not replay %s: %r", name, error)
            return []
        return [
            frames.broadcast(name, row["event"], row["payload"], str(row["id"]), replayed=True)
            for row in rows
        ]
