"""Connections to the database with a timeout for each answer.

These classes replace psycopg's own `execute` for two reasons. A cancelled `execute` continues until
the server has answered; here the caller closes the connection instead. And psycopg registers and
removes a reader of the socket for each statement, which takes half the time of a small call; here
the reader stays registered.
"""

import asyncio
import select
import threading
import time
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from psycopg import AsyncConnection, OperationalError, pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGconn, PGresult

from picture_queue._transport.base import Deadline
from picture_queue._transport.owner import LoopOwner, ProcessOwner, leave_open
from picture_queue.errors import Busy
from picture_queue.settings import DatabaseSettings

_IDLE = pq.TransactionStatus.IDLE  # a global, to avoid an attribute look-up in each call


async def connect_async(
    settings: DatabaseSettings, deadline: Deadline | None = None
) -> AsyncConnection[Any]:
    """Open a connection.

    Args:
        settings: The URL of the database, and the options of the connection.
        deadline: The time by which to connect; ``connect_timeout`` of the settings may end earlier.

    Raises:
        TimeoutError: The deadline passed.
        psycopg.Error: The connection cannot be opened.
    """
    async with asyncio.timeout(None if deadline is None else deadline.remaining()):
        return await AsyncConnection.connect(conninfo(settings), autocommit=True)


def connect_sync(settings: DatabaseSettings, deadline: Deadline) -> PGconn:
    """Open a connection; see `connect_async`.

    psycopg's own `connect` is not used, since its timeout is a whole number of seconds, and at
    least two.
    """
    deadline_at = time.monotonic() + min(settings.connect_timeout, deadline.remaining())
    pgconn = pq.PGconn.connect_start(conninfo(settings).encode())
    try:
        while (status := pgconn.connect_poll()) != pq.PollingStatus.OK:
            if status == pq.PollingStatus.FAILED:
                raise OperationalError(pgconn.get_error_message())
            is_writing = status == pq.PollingStatus.WRITING
            if not _wait_for_socket(pgconn.socket, is_writing, deadline_at - time.monotonic()):
                raise TimeoutError
    except BaseException:
        pgconn.finish()
        raise
    pgconn.nonblocking = 1
    return pgconn


def conninfo(settings: DatabaseSettings) -> str:
    """Return the connection string of a database, with the options that this library sets."""
    return make_conninfo(
        settings.url,
        application_name="picture_queue",
        connect_timeout=settings.connect_timeout,
        keepalives_idle=30,
        keepalives_interval=5,
        keepalives_count=3,
    )


class AsyncRawConnection:
    """A connection that executes one statement at a time.

    Args:
        connection: An open connection, which this object closes.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket, self._on_readable)

    async def execute(
        self, statement: bytes, values: Sequence[bytes | None], timeout: float
    ) -> PGresult:
        """Execute a statement and return its result.

        Args:
            statement: The SQL.
            values: The parameters in PostgreSQL's text format; None: null.
            timeout: Seconds to wait for the answer.

        Raises:
            TimeoutError: No answer arrived in time.
            psycopg.OperationalError: The connection was lost.
        """
        pgconn = self._pgconn
        pgconn.send_query_params(statement, values)
        self._deadline = self._loop.time() + timeout
        try:
            if pgconn.flush():
                await self._write()
            result = None
            while True:  # libpq returns None after the last result, when the commit has finished
                while pgconn.is_busy():
                    await self._wait_ready()
                    pgconn.consume_input()
                next_result = pgconn.get_result()
                if next_result is None:
                    break
                result = next_result
        finally:
            self._waiter = None
        if result is None:
            raise OperationalError("the connection was lost before the answer")
        return result

    @property
    def is_idle(self) -> bool:
        """True while no statement runs."""
        return self._pgconn.transaction_status == _IDLE

    def close(self) -> None:
        """Close the connection at once, without waiting for the server."""
        if self._socket >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket = -1
        if self._timer is not None:
            self._timer.cancel()
        self._pgconn.finish()

    async def _write(self) -> None:
        """Send the rest of a statement that is larger than the buffer of the socket.

        The method also reads, because the server may stop reading until its own output was read.
        """
        self._loop.add_writer(self._socket, self._wake)
        try:
            while self._pgconn.flush():
                await self._wait_ready()
                self._pgconn.consume_input()
        finally:
            self._loop.remove_writer(self._socket)

    def _wait_ready(self) -> asyncio.Future[None]:
        """Return a future that ends when the socket is ready, or fails at the deadline.

        The socket is ready when it is readable, or during `_write` also when it is writable.
        """
        self._waiter = self._loop.create_future()
        # The timer is kept for later statements: starting and cancelling one for each statement
        # took as long as building the statement.
        if self._timer is None or self._deadline < self._timer.when():
            self._start_timer()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _on_readable(self) -> None:
        if self._waiter is not None:
            self._wake()
            return
        # No statement is running, so the server sent a notice or closed the connection.
        try:
            self._pgconn.consume_input()
        except OperationalError:
            self.close()

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._start_timer()
        else:
            self._waiter.set_exception(TimeoutError())


class RawConnection:
    """A connection that executes one statement at a time, for callers without an event loop.

    Args:
        pgconn: An open connection, which this object closes.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn

    def execute(self, statement: bytes, values: Sequence[bytes | None], timeout: float) -> PGresult:
        """Execute a statement and return its result; see `AsyncRawConnection.execute`."""
        pgconn = self._pgconn
        deadline = time.monotonic() + timeout
        pgconn.send_query_params(statement, values)
        while pgconn.flush():  # see AsyncRawConnection._write
            self._wait(deadline, writing=True)
            pgconn.consume_input()
        result = None
        while True:
            while pgconn.is_busy():
                self._wait(deadline)
                pgconn.consume_input()
            next_result = pgconn.get_result()
            if next_result is None:
                break
            result = next_result
        if result is None:
            raise OperationalError("the connection was lost before the answer")
        return result

    @property
    def is_idle(self) -> bool:
        """True while no statement runs."""
        return self._pgconn.transaction_status == _IDLE

    def close(self) -> None:
        """Close the connection."""
        self._pgconn.finish()

    def _wait(self, deadline: float, writing: bool = False) -> None:
        if not _wait_for_socket(self._pgconn.socket, writing, deadline - time.monotonic()):
            raise TimeoutError


def _poll(socket: int, writing: bool, timeout: float) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
    return bool(poll.poll(max(0.0, timeout * 1000)))


def _select(socket: int, writing: bool, timeout: float) -> bool:
    readable, writable, _ = select.select(
        [socket], [socket] if writing else [], [], max(0.0, timeout)
    )
    return bool(readable or writable)


# `select` does not support file descriptors above 1023, but Windows has no `poll`.
_wait_for_socket = _poll if hasattr(select, "poll") else _select


C = TypeVar("C", AsyncRawConnection, RawConnection)


class _Pool(Generic[C]):
    """The idle connections of one process, or of one event loop of a process."""

    def __init__(self, owner: LoopOwner | ProcessOwner) -> None:
        self.owner = owner
        self._idle: list[C] = []
        self._closed = False

    def pop_idle(self) -> C | None:
        """Return an idle connection that is not known to be closed; None if there is none."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:  # possibly because another thread took the last connection
                return None
            if connection.is_idle:
                return connection
            connection.close()

    def release(self, connection: C) -> None:
        """Return a connection to the pool for the next call, or close it."""
        # A busy connection may still deliver an old answer, so close it.
        if connection.is_idle and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()

    def close_idle(self) -> None:
        """Close the idle connections."""
        while (connection := self.pop_idle()) is not None:
            connection.close()

    def close(self) -> None:
        """Close the idle connections now, and the connections of running calls at their end."""
        self._closed = True
        self.close_idle()

    def abandon(self) -> None:
        """Close the connections of another event loop, but leave the parent's connections open."""
        if self.owner.is_inherited():
            leave_open(self)
        else:
            self.close()


class AsyncPool(_Pool[AsyncRawConnection]):
    """The connections of one event loop.

    Args:
        size: Maximum number of connections.
    """

    def __init__(self, size: int) -> None:
        super().__init__(LoopOwner())
        self._slots = asyncio.Semaphore(size)

    async def acquire_slot(self, deadline: Deadline) -> None:
        """Wait until fewer than ``size`` connections are in use.

        Raises:
            Busy: All connections stayed in use until the deadline.
        """
        if self._slots.locked():
            try:
                async with asyncio.timeout(deadline.remaining()):
                    await self._slots.acquire()
            except TimeoutError:
                raise _pool_exhausted(deadline) from None
        else:
            await self._slots.acquire()

    def release_slot(self) -> None:
        """Let the next caller use a connection."""
        self._slots.release()


class Pool(_Pool[RawConnection]):
    """The connections of one process; threads share them.

    Args:
        size: Maximum number of connections.
    """

    def __init__(self, size: int) -> None:
        super().__init__(ProcessOwner())
        self._slots = threading.Semaphore(size)

    def acquire_slot(self, deadline: Deadline) -> None:
        """Wait until fewer than ``size`` connections are in use; see `AsyncPool.acquire_slot`."""
        acquire = self._slots.acquire
        if not acquire(blocking=False) and not acquire(timeout=deadline.remaining()):
            raise _pool_exhausted(deadline)

    def release_slot(self) -> None:
        """Let the next caller use a connection."""
        self._slots.release()


def _pool_exhausted(deadline: Deadline) -> Busy:
    return Busy(
        f"All connections to the database were in use for {deadline.timeout:g} s",
        hint="Make fewer calls at the same time",
    )
