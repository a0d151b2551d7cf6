"""Hears of each committed row of ``realtime.messages`` and hands it to the hub."""

import asyncio
import contextlib
import json
import logging
import uuid
from typing import Any

import asyncpg

from picture_queue.local.gateway.realtime import frames
from picture_queue.local.gateway.realtime.hub import Hub
from picture_queue.local.gateway.realtime.limits import Quota

_logger = logging.getLogger(__name__)

_CHANNEL = "realtime_messages"
_CONNECT_TIMEOUT = 10.0  # seconds
_RETRY_DELAYS = (0.05, 0.2, 1.0, 2.0)  # seconds; the last one repeats
_WATCH_INTERVAL = 15.0  # seconds between two proofs that the connection lives
_PRUNE_EVERY = 240  # watches: an hour
# As long as on the platform.
_PRUNE = "delete from realtime.messages where inserted_at < now() - interval '72 hours'"
_READ_AT_ONCE = 500
_ROWS = """
select m.id, m.topic, m.event, m.private, m.payload
from unnest($1::uuid[]) with ordinality as n (id, i)
join realtime.messages m on m.id = n.id and m.extension = 'broadcast'
order by n.i
"""


class Listener:
    """A connection that LISTENs, kept alive and replaced when it breaks.

    Delivery is at most once, as on the platform: what commits while the connection is away reaches
    nobody.
    """

    def __init__(self, dsn: str, hub: Hub, quota: Quota) -> None:
        self._dsn = dsn
        self._quota = quota
        self._hub = hub
        self._notes: asyncio.Queue[str] = asyncio.Queue()
        self._asking = asyncio.Lock()  # a connection answers one question at a time
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        while True:
            try:
                await self._listen()
                attempt = 0
            except Exception as error:  # whatever it was, without us nobody hears anything
                _logger.warning("lost the database's notifications: %r", error)
            self.connected.clear()
            await asyncio.sleep(_RETRY_DELAYS[min(attempt, len(_RETRY_DELAYS) - 1)])
            attempt += 1

    async def _listen(self) -> None:
        """Serve one connection until it ends."""
        connection = await asyncpg.connect(
            self._dsn,
            timeout=_CONNECT_TIMEOUT,
            command_timeout=_CONNECT_TIMEOUT,
            server_settings={"application_name": "picture-queue gateway (realtime)"},
        )
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        tasks = set[asyncio.Task[None]]()
        try:
            await connection.add_listener(_CHANNEL, self._note)
            self.connected.set()
            tasks.add(asyncio.create_task(self._deliver(connection)))
            tasks.add(asyncio.create_task(self._watch(connection, lost)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            connection.terminate()

    async def _watch(
        self, connection: "asyncpg.Connection[asyncpg.Record]", lost: asyncio.Event
    ) -> None:
        """Return when the connection is gone; ask now and then, since a dead peer is silent."""
        watches = 0
        while not lost.is_set():
            async with self._asking:
                await connection.execute(_PRUNE if watches % _PRUNE_EVERY == 0 else "select 1")
            watches += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lost.wait(), _WATCH_INTERVAL)

    def _note(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._notes.put_nowait(str(payload))

    async def _deliver(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Publish the rows in the order of their commits.

        Every role may NOTIFY, so only the id of a notification is used. The row has the rest.
        """
        while True:
            notes = [await self._notes.get()]
            while len(notes) < _READ_AT_ONCE and not self._notes.empty():
                notes.append(self._notes.get_nowait())
            ids = [found for note in notes if (found := _id_in(note)) is not None]
            async with self._asking:
                rows = await connection.fetch(_ROWS, ids)
            for row in rows:
                try:
                    self._publish({**row, "payload": json.loads(row["payload"] or "null")})
                except (ValueError, RecursionError):
                    _logger.warning("ignored the message %s: no client can read it", row["id"])

    def _publish(self, message: dict[str, Any]) -> None:
        name, private = message["topic"], bool(message["private"])
        if not self._hub.listening(name, private):
            return
        text = frames.broadcast(name, message["event"], message["payload"], str(message["id"]))
        if self._quota.too_large(text) or not self._quota.events.take(name):
            _logger.warning("dropped a message to %s: too large, or too many in a second", name)
            return
        self._hub.publish(name, private, text)


def _id_in(note: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(json.loads(note)["id"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _logger.warning("ignored a notification that has no id of a message")
        return None
