"""Wake-ups by LISTEN, for clients with a connection to the database.

Behind a pooler in transaction mode LISTEN succeeds and nothing ever arrives. So it is trusted only
once a NOTIFY that another connection sent has come through, and asked again from time to time:
until then, and whenever the proof fails, listeners are told that nothing is heard, and poll.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import uuid4

from psycopg import AsyncConnection, OperationalError
from psycopg.pq import PGnotify
from psycopg.pq.abc import PGconn
from pydantic_core import from_json

from picture_queue._realtime.event_source import Listener
from picture_queue._transport.connection import connect_async
from picture_queue.settings import DatabaseSettings

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CHANNEL = "picture_queue"
_PROOF = "picture_queue_proof"
_ECHO = 5.0  # seconds for a NOTIFY of our own to come back
_PROVE_AGAIN = 30.0  # seconds between two proofs
_FIRST_PAUSE = 0.25  # seconds between two connections, doubling
_LONGEST_PAUSE = 10.0
_UNPROVEN_PAUSE = 60.0  # where LISTEN does not work: an address does not change its nature
_TOPIC = "pq:queue:"


class Notifications:
    """Listens for the wake-ups of queues.

    Args:
        settings: The database.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._listeners: dict[str, list[Listener]] = {}
        self._proven = False
        self._said = False
        self._keeper: asyncio.Task[None] | None = None

    @contextmanager
    def listen(self, topic: str, listener: Listener) -> Iterator[None]:
        """Tells the listener of the topic's events until the block ends."""
        self._listeners.setdefault(topic, []).append(listener)
        if self._proven:
            listener.joined()
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="picture-queue listen")
        try:
            yield
        finally:
            self._listeners[topic].remove(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]
            if not self._listeners and self._keeper is not None:
                # Forgotten at once: a listener that comes before it has ended needs another one.
                self._keeper.cancel()
                self._keeper = None
                self._proven = False

    async def aclose(self) -> None:
        """Closes the connection; nothing is told any more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            served = False
            try:
                served = await self._serve()
            except Exception as error:
                # Never fatal: workers poll meanwhile, and the next connection may do.
                _log.info("LISTEN is away: %s", str(error).strip().split("\n", 1)[0])
            was_proven = self._proven
            self._trust(False)
            if served and not was_proven:
                pause = _UNPROVEN_PAUSE
            elif was_proven:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _serve(self) -> bool:
        """Listens over one connection until it breaks, or a proof fails.

        Returns:
            True: it was the proof that failed, and not the connection.
        """
        echoes: asyncio.Queue[str] = asyncio.Queue()
        async with _connection(self._settings) as connection:
            await connection.execute(f"listen {_CHANNEL}")
            await connection.execute(f"listen {_PROOF}")
            with self._hearing(connection.pgconn, echoes) as broken:
                while await _first(broken, self._prove(echoes)):
                    self._trust(True)
                    pause = _PROVE_AGAIN * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                    await _first(broken, asyncio.sleep(pause))
        if not self._said:
            self._said = True
            _log.info(
                "LISTEN does not work at this address of the database: the worker polls. A direct "
                "address, or a pooler's in session mode, makes it start jobs at once."
            )
        return True

    @contextmanager
    def _hearing(
        self, server: PGconn, echoes: asyncio.Queue[str]
    ) -> Iterator[asyncio.Future[None]]:
        """Hears what arrives until the block ends; the future fails when the connection does.

        Straight from the socket: psycopg's own generator sets up its watch anew for each notice.
        """
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[None] = loop.create_future()
        socket = server.socket

        def readable() -> None:
            try:
                server.consume_input()
            except OperationalError as error:
                loop.remove_reader(socket)
                broken.set_exception(error)
            while (notice := server.notifies()) is not None:
                self._heard(notice, echoes)

        loop.add_reader(socket, readable)
        try:
            yield broken
        finally:
            loop.remove_reader(socket)
            if not broken.cancel():
                broken.exception()  # so that nobody complains that it was not looked at

    def _heard(self, notice: PGnotify, echoes: asyncio.Queue[str]) -> None:
        if notice.relname == _PROOF.encode():
            echoes.put_nowait(notice.extra.decode())
            return
        try:
            payload = from_json(notice.extra)
            listeners = self._listeners.get(_TOPIC + payload["queue"], ())
        except (ValueError, TypeError, KeyError):  # anybody may send to the channel
            _log.debug("A notice that is none of ours: %r", notice.extra)
            return
        for listener in listeners:
            listener.message("wake", payload)

    async def _prove(self, echoes: asyncio.Queue[str]) -> bool:
        """Whether a NOTIFY of another connection arrives in time."""
        token = str(uuid4())
        try:
            async with asyncio.timeout(_ECHO):
                async with _connection(self._settings) as voice:
                    await voice.execute("select pg_notify(%s, %s)", [_PROOF, token])
                while await echoes.get() != token:  # another worker's
                    pass
        except TimeoutError:
            return False
        return True

    def _trust(self, proven: bool) -> None:
        if proven == self._proven:
            return
        self._proven = proven
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.joined() if proven else listener.lost()


async def _first(broken: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T:
    """Returns what the work returns, unless the connection breaks before: that is an error."""
    task = asyncio.create_task(work)
    try:
        both: set[asyncio.Future[Any]] = {broken, task}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            broken.result()
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def _connection(settings: DatabaseSettings) -> AsyncIterator[AsyncConnection[Any]]:
    connection = await connect_async(settings)
    try:
        yield connection
    finally:
        # Without a farewell that could hang: nothing is under way that would be missed.
        connection.pgconn.finish()
        await connection.close()
