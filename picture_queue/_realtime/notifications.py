"""Wake-ups by LISTEN, for clients with a connection to the database.

Behind a pooler in transaction mode LISTEN succeeds, but no notification arrives. So a second
connection sends a test notification, and `joined` of the listeners is called only after the test
notification has arrived. The test is repeated at intervals. If it fails, `lost` of the listeners is
called, and the workers poll.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import uuid4

from psycopg import OperationalError
from psycopg.pq import PGnotify
from psycopg.pq.abc import PGconn
from pydantic_core import from_json

from picture_queue._log import Log
from picture_queue._realtime.event_source import Listener
from picture_queue._transport.connection import AsyncRawConnection, connect_async
from picture_queue.settings import DatabaseSettings

T = TypeVar("T")

_log = Log(__name__)

_CHANNEL = "picture_queue"
_TEST_CHANNEL = "picture_queue_proof"
_TEST_TIMEOUT = 5.0  # seconds in which a test notification has to arrive
_TEST_INTERVAL = 30.0  # seconds between two tests
_FIRST_PAUSE = 0.25  # seconds before the next connection; each failure doubles it
_MAX_PAUSE = 10.0
# Seconds before the next connection if the first test fails. The URL is then most likely the URL of
# a pooler that drops LISTEN, which will not change soon.
_UNUSABLE_PAUSE = 60.0
_TOPIC_PREFIX = "pq:queue:"


class Notifications:
    """The wake-ups of queues that one database connection receives.

    Args:
        settings: The URL of the database, and the options of the connections.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._listeners: dict[str, list[Listener]] = {}
        self._delivers = False
        self._has_warned = False
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def listen(self, topic: str, listener: Listener) -> Iterator[None]:
        """Deliver the events of a topic to the listener until the block ends."""
        if self._task is None or self._task.done():
            self._delivers = False
            self._task = asyncio.create_task(self._run(), name="picture-queue listen")
        self._listeners.setdefault(topic, []).append(listener)
        if self._delivers:
            listener.joined()
        try:
            yield
        finally:
            self._listeners[topic].remove(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]
            if not self._listeners and self._task is not None:
                # The task ends later. A listener that is added before its end needs a new task.
                self._task.cancel()
                self._task = None
                self._delivers = False

    async def aclose(self) -> None:
        """Close the connection and end all deliveries."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            test_failed = False
            try:
                test_failed = await self._serve()
            except Exception as error:
                # Continue after every error: workers poll, and the next connection may work.
                reason = str(error).strip() or type(error).__name__
                _log.info(
                    "Lost the notification connection; reconnecting: %s", reason.split("\n", 1)[0]
                )
            did_deliver = self._delivers
            self._set_delivers(False)
            if test_failed and not did_deliver:
                pause = _UNUSABLE_PAUSE
            elif did_deliver:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _MAX_PAUSE)

    async def _serve(self) -> bool:
        """Listen over one connection until it breaks, or until a test of LISTEN fails.

        Returns:
            True: a test has failed. A broken connection raises an exception instead.
        """
        tokens: asyncio.Queue[str] = asyncio.Queue()
        async with _connection(self._settings) as (connection, pgconn):
            for channel in (_CHANNEL, _TEST_CHANNEL):
                await connection.execute(f"listen {channel}".encode(), [], _TEST_TIMEOUT)
            with self._receive_in_block(pgconn, tokens) as broken:
                while await _run_unless_broken(broken, self._test_delivery(tokens)):
                    self._set_delivers(True)
                    pause = _TEST_INTERVAL * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                    await _run_unless_broken(broken, asyncio.sleep(pause))
        if not self._has_warned:
            self._has_warned = True
            _log.info(
                "Notifications do not arrive at this database URL, so the worker polls. To start "
                "jobs at once, use the URL of a direct connection or of a pooler in session mode."
            )
        return True

    @contextmanager
    def _receive_in_block(
        self, pgconn: PGconn, tokens: asyncio.Queue[str]
    ) -> Iterator[asyncio.Future[None]]:
        """Dispatch notifications until the block ends; the future fails if the connection breaks.

        The reader of the socket is registered once for the whole block. psycopg's own generator
        registers a reader for each notification.
        """
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[None] = loop.create_future()
        socket = pgconn.socket

        def on_readable() -> None:
            try:
                pgconn.consume_input()
            except OperationalError as error:
                loop.remove_reader(socket)
                broken.set_exception(error)
            while (notification := pgconn.notifies()) is not None:
                self._dispatch(notification, tokens)

        loop.add_reader(socket, on_readable)
        try:
            yield broken
        finally:
            loop.remove_reader(socket)
            if not broken.cancel():
                broken.exception()  # otherwise asyncio logs that it was never retrieved

    def _dispatch(self, notification: PGnotify, tokens: asyncio.Queue[str]) -> None:
        if notification.relname == _TEST_CHANNEL.encode():
            tokens.put_nowait(notification.extra.decode())
            return
        try:
            payload = from_json(notification.extra)
            listeners = self._listeners.get(_TOPIC_PREFIX + payload["queue"], ())
        except (ValueError, TypeError, KeyError):  # any role can send any text
            _log.debug("Ignored a notification that cannot be read: %r", notification.extra)
            return
        for listener in listeners:
            listener.message("wake", payload)

    async def _test_delivery(self, tokens: asyncio.Queue[str]) -> bool:
        """Send a notification over a second connection, and return whether it arrives in time."""
        token = str(uuid4())
        values = [_TEST_CHANNEL.encode(), token.encode()]
        try:
            async with asyncio.timeout(_TEST_TIMEOUT):
                async with _connection(self._settings) as (sender, _):
                    await sender.execute(b"select pg_notify($1, $2)", values, _TEST_TIMEOUT)
                while await tokens.get() != token:
                    pass  # another worker sent the token that was read, for a test of its own
        except TimeoutError:
            return False
        return True

    def _set_delivers(self, delivers: bool) -> None:
        if delivers == self._delivers:
            return
        self._delivers = delivers
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.joined() if delivers else listener.lost()


async def _run_unless_broken(broken: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine and return its result, unless the connection breaks first.

    Raises:
        psycopg.OperationalError: The connection broke.
    """
    task = asyncio.create_task(work)
    try:
        futures: set[asyncio.Future[Any]] = {broken, task}
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            broken.result()
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def _connection(
    settings: DatabaseSettings,
) -> AsyncIterator[tuple[AsyncRawConnection, PGconn]]:
    connection = await connect_async(settings)
    # psycopg's own `execute` cannot be cancelled while the server does not answer.
    raw = AsyncRawConnection(connection)
    try:
        yield raw, connection.pgconn
    finally:
        raw.close()
