"""Replay of messages that were sent to a private topic before a join.

As on Supabase, a replay has at most the newest 25 messages of the last 72 hours, the oldest
first. Each message is marked as replayed
(https://supabase.com/docs/guides/realtime/broadcast#broadcast-replay).
"""

import logging
from dataclasses import dataclass
from typing import Final

import asyncpg

from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.realtime import frames

_logger = logging.getLogger(__name__)

_MAX_MESSAGES: Final = 25
_MAX_TIME: Final = 1e15  # milliseconds, some 31,000 years; Postgres can represent such a time
# `inserted_at` has no time zone; its times are UTC.
_SELECT: Final = """
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
    """The replay that a join requests.

    Args:
        since: Unix time in milliseconds.
        limit: Maximum number of messages.
    """

    since: float
    limit: int

    @classmethod
    def parse(cls, value: object) -> "ReplayRequest | None":
        """Parse the value of ``replay``; None if there is no value.

        Raises:
            ValueError: The value is not valid.
        """
        if value is None:
            return None
        since = value.get("since") if isinstance(value, dict) else None
        limit = value.get("limit", _MAX_MESSAGES) if isinstance(value, dict) else None
        for number in (since, limit):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError("replay needs a number `since`, and may have a number `limit`")
        # Limit the number to what a timestamp in Postgres can represent.
        bounded = float(max(-_MAX_TIME, min(since or 0, _MAX_TIME)))
        return cls(since=bounded, limit=int(max(1, min(limit or 1, _MAX_MESSAGES))))


class History:
    """The stored messages of private topics.

    Args:
        database: The database that stores the messages.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def replay(self, name: str, request: ReplayRequest) -> list[str]:
        """Return the frames of a replay; an empty list if the database cannot be reached."""
        try:
            async with self._database.connection() as connection:
                rows = await connection.fetch(_SELECT, name, request.since, request.limit)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            _logger.warning("could not replay %s: %r", name, error)
            return []
        return [
            frames.broadcast(name, row["event"], row["payload"], str(row["id"]), replayed=True)
            for row in rows
        ]
