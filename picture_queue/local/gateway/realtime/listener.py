"""Delivery of each committed row of ``realtime.messages`` to the hub."""

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
_PROBE_INTERVAL = 15.0  # seconds between two checks of the connection
_PROBES_PER_PRUNE = 240  # checks of the connection, which is an hour
# The platform's retention.
_PRUNE = "delete from realtime.messages where inserted_at < now() - interval '72 hours'"
_BATCH = 500
_ROWS = """
select m.id, m.topic, m.event, m.private, m.payload
from unnest($1::uuid[]) with ordinality as n (id, i)
join realtime.messages m on m.id = n.id and m.extension = 'broadcast'
order by n.i
"""


class DatabaseListener:
    """A connection to the database for LISTEN, which is replaced when it breaks.

    Delivery is at most once, as on the platform: messages that are committed while there is no
    connection are not delivered.
    """

    def __init__(self, dsn: str, hub: Hub, quota: Quota) -> None:
        self._dsn = dsn
        self._quota = quota
        self._hub = hub
        self._notifications: asyncio.Queue[str] = asyncio.Queue()
        self._query_lock = asyncio.Lock()  # a connection runs one query at a time
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        while True:
            try:
                await self._listen()
                attempt = 0
            except Exception as error:  # do not end: without this task there are no messages
                _logger.warning("lost the notification connection; reconnecting: %r", error)
            self.connected.clear()
            await asyncio.sleep(_RETRY_DELAYS[min(attempt, len(_RETRY_DELAYS) - 1)])
            attempt += 1

    async def _listen(self) -> None:
        """Open a connection and deliver its notifications until the connection ends."""
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
            await connection.add_listener(_CHANNEL, self._on_notify)
            self.connected.set()
            tasks.add(asyncio.create_task(self._deliver(connection)))
            tasks.add(asyncio.create_task(self._probe(connection, lost)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            connection.terminate()

    async def _probe(
        self, connection: "asyncpg.Connection[asyncpg.Record]", lost: asyncio.Event
    ) -> None:
        """Check the connection until it is lost, since a dead peer sends nothing."""
        probes = 0
        while not lost.is_set():
            async with self._query_lock:
                await connection.execute(_PRUNE if probes % _PROBES_PER_PRUNE == 0 else "select 1")
            probes += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lost.wait(), _PROBE_INTERVAL)

    def _on_notify(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._notifications.put_nowait(str(payload))

    async def _deliver(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Publish the rows in the order of their commits.

        Every role may NOTIFY, so only the id in a notification is used. The message is read from
        the row.
        """
        while True:
            notifications = [await self._notifications.get()]
            while len(notifications) < _BATCH and not self._notifications.empty():
                notifications.append(self._notifications.get_nowait())
            ids = [
                found
                for notification in notifications
                if (found := _parse_id(notification)) is not None
            ]
            async with self._query_lock:
                rows = await connection.fetch(_ROWS, ids)
            for row in rows:
                try:
                    self._publish({**row, "payload": json.loads(row["payload"] or "null")})
                except (ValueError, RecursionError):
                    _logger.warning(
                        "ignored the message %s: its payload cannot be parsed", row["id"]
                    )

    def _publish(self, message: dict[str, Any]) -> None:
        name, private = message["topic"], bool(message["private"])
        if not self._hub.has_subscribers(name, private):
            return
        text = frames.broadcast(name, message["event"], message["payload"], str(message["id"]))
        if self._quota.is_too_large(text) or not self._quota.events.take(name):
            _logger.warning("dropped a message to %s: too large, or too many in a second", name)
            return
        self._hub.publish(name, private, text)


def _parse_id(notification: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(json.loads(notification)["id"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _logger.warning("ignored a notification without the id of a message")
        return None
