"""One connection, and the wait for the answer to a statement, with a bound.

psycopg's own wait has none: a cancelled one goes on until the server has answered. Here the caller
throws the connection away instead. And it sets up and takes down its watch over the socket for each
statement, which took half as long as a small call does; this one stays up.
"""

import asyncio
import time
from collections.abc import Generator, Sequence
from typing import Any

from psycopg import AsyncConnection, Connection, OperationalError, pq, waiting
from psycopg.generators import execute
from psycopg.pq.abc import PGresult

_IDLE = pq.TransactionStatus.IDLE  # looked up once: each call asks for it
_TICK = 0.1  # seconds between two looks at the clock while nothing arrives


class AsyncWire:
    """A connection that one caller at a time asks.

    Args:
        connection: It belongs to the wire from now on.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._server = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._socket = self._server.socket
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket, self._readable)

    async def ask(self, text: bytes, values: Sequence[bytes | None], timeout: float) -> PGresult:
        """Makes a statement and returns its answer.

        Args:
            text: The statement.
            values: Its parameters, as text.
            timeout: Longest wait, seconds.

        Raises:
            TimeoutError: No answer came in time.
            psycopg.OperationalError: The connection ended.
        """
        server = self._server
        server.send_query_params(text, values)
        self._deadline = self._loop.time() + timeout
        try:
            if server.flush():
                await self._write()
            result = None
            while True:  # what was asked is over when nothing more comes: commits come before that
                while server.is_busy():
                    await self._news()
                    server.consume_input()
                answer = server.get_result()
                if answer is None:
                    break
                result = answer
        finally:
            self._waiter = None
        if result is None:
            raise OperationalError("the connection ended before the answer")
        return result

    @property
    def idle(self) -> bool:
        """Whether it waits for the next statement."""
        return self._server.transaction_status == _IDLE

    def close(self) -> None:
        """Ends it, without a farewell that could hang."""
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = -1
        if self._alarm is not None:
            self._alarm.cancel()
        self._server.finish()

    async def _write(self) -> None:
        """Sends what did not fit into the socket's buffer; reads, or both sides could wait."""
        self._loop.add_writer(self._socket, self._wake)
        try:
            while self._server.flush():
                await self._news()
                self._server.consume_input()
        finally:
            self._loop.remove_writer(self._socket)

    def _news(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        # The alarm outlasts the answer, for those that follow: to set one up and take it down for
        # each took as long as to make the statement.
        if self._alarm is None or self._deadline < self._alarm.when():
            self._set_alarm()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _readable(self) -> None:
        if self._waiter is not None:
            self._wake()
            return
        # Unasked: a notice, or the end.
        try:
            self._server.consume_input()
        except OperationalError:
            self.close()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._set_alarm()
        else:
            self._waiter.set_exception(TimeoutError())


class Wire:
    """The same, for callers without an event loop."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self._server = connection.pgconn

    def ask(self, text: bytes, values: Sequence[bytes | None], timeout: float) -> PGresult:
        """Makes a statement and returns its answer; see `AsyncWire.ask`."""
        self._server.send_query_params(text, values)
        bounded = _until(execute(self._server), time.monotonic() + timeout)
        result: PGresult = waiting.wait(bounded, self._server.socket, interval=_TICK)[-1]
        return result

    @property
    def idle(self) -> bool:
        """Whether it waits for the next statement."""
        return self._server.transaction_status == _IDLE

    def close(self) -> None:
        """Ends it."""
        self._server.finish()


def _until(work: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    wish = next(work)
    while True:
        ready = yield wish
        if not ready and time.monotonic() > deadline:
            raise TimeoutError
        try:
            wish = work.send(ready)
        except StopIteration as end:
            return end.value
