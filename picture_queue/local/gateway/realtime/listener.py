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
_PROBES_PER_PRUNE = 240  # old messages are deleted once an hour
# Supabase keeps messages for 72 hours.
_PRUNE = "delete from realtime.messages where inserted_at < now() - interval '72 hours'"
_BATCH_SIZE = 500  # notifications for which one query reads the rows
_SELECT = """
select message.id, message.topic, message.event, message.private, message.payload
from unnest($1::uuid[]) with ordinality as notified (id, position)
join realtime.messages as message
  on message.id = notified.id and message.extension = 'broadcast'
order by notified.position
"""


class DatabaseListener:
    """A connection to the database for LISTEN; a new connection replaces a broken one.

    Delivery is at most once, as on Supabase: messages that are committed while there is no
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
            except Exception as error:  # keep this task running: it delivers all messages
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
        """Query the database from time to time until the connection is lost.

        Without a query, a connection whose server has disappeared seems to be open for hours. The
        query also deletes old messages.
        """
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

        Every role may send a notification. So only the id in a notification is used, and the
        message is read from the row.
        """
        while True:
            notifications = [await self._notifications.get()]
            while len(notifications) < _BATCH_SIZE and not self._notifications.empty():
                notifications.append(self._notifications.get_nowait())
            parsed = map(_parse_id, notifications)
            ids = [message_id for message_id in parsed if message_id is not None]
            async with self._query_lock:
                rows = await connection.fetch(_SELECT, ids)
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
