"""Daemon threads for functions of users. A thread that hangs does not keep the process alive.

The threads of `concurrent.futures` and `asyncio.to_thread` are joined when the event loop or the
interpreter ends, so a thread that hangs would keep the process from ending.
"""

import asyncio
import contextlib
import contextvars
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLOSE_TIMEOUT = 2.0  # seconds a pool waits for its threads when it is closed
_MAX_LOOKUPS = 32  # look-ups of host names at the same time


def run_in_thread(name: str, function: Callable[[], T]) -> "asyncio.Future[T | None]":
    """Call a function in a separate daemon thread, with the context variables of the caller.

    Args:
        name: Name of the thread.
        function: A function that raises nothing.

    Returns:
        A future of the result; its value is None if the function raises after all. If the future is
        cancelled, the thread continues.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T | None] = loop.create_future()
    context = contextvars.copy_context()

    def set_result(value: T | None) -> None:
        if not result.done():
            result.set_result(value)

    def run() -> None:
        value = None
        try:
            value = context.run(function)
        finally:
            with contextlib.suppress(RuntimeError):  # the event loop ended before the function
                loop.call_soon_threadsafe(set_result, value)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result


class _Call(Future[Any]):
    """A call that waits to be started in a separate thread, or runs there."""

    def __init__(self, pool: "DaemonThreadPool", function: Callable[[], Any]) -> None:
        super().__init__()
        self._pool = pool
        self._function = function
        self.thread = threading.Thread(target=self._run, name="picture-queue", daemon=True)

    def cancel(self) -> bool:
        """Cancel the call. If it is running, its thread leaves the pool and continues."""
        if self.running():
            self._pool.remove_thread(self.thread)
        return super().cancel()

    def _run(self) -> None:
        if self.set_running_or_notify_cancel():
            try:
                result = self._function()
            except BaseException as error:
                self.set_exception(error)
            else:
                self.set_result(result)
        self._pool.remove_thread(self.thread)
        del self  # breaks the reference cycle of an exception, its frame and this call


class DaemonThreadPool(ThreadPoolExecutor):
    """An executor for `asyncio.to_thread` with a daemon thread for each call.

    A call that is cancelled while it runs, for example by a timeout, leaves the pool, so that calls
    that hang do not use up its threads.

    Args:
        max_threads: Maximum number of calls that run at the same time.
        lookups: The pool for look-ups of host names by the event loop. Look-ups must not wait for
            functions of users that hang, since no connection can be opened without a look-up.
    """

    def __init__(self, max_threads: int, lookups: "DaemonThreadPool | None" = None) -> None:
        super().__init__(1)  # the threads of the base class are never started
        self._max_threads = max_threads
        self._lookups = lookups
        self._waiting: deque[_Call] = deque()
        self._running: set[threading.Thread] = set()
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call the function in a thread.

        Raises:
            RuntimeError: The pool is closed.
        """
        is_lookup = fn is socket.getaddrinfo
        if is_lookup and self._lookups is not None:
            return self._lookups.submit(fn, *args, **kwargs)
        call = _Call(self, partial(fn, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(call)
            self._start_threads()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls, and wait a few seconds at most for running calls."""
        with self._lock:
            self._closed = True
            cancelled: list[_Call] = []
            if cancel_futures:
                cancelled, self._waiting = list(self._waiting), deque()
            threads = list(self._running) if wait else []
        for call in cancelled:
            call.cancel()
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def remove_thread(self, thread: threading.Thread) -> None:
        """Remove a thread from the pool, if it is still in it, and start the next call."""
        with self._lock:
            self._running.discard(thread)
            self._start_threads()

    def _start_threads(self) -> None:
        while self._waiting and len(self._running) < self._max_threads:
            call = self._waiting.popleft()
            try:
                call.thread.start()
            except RuntimeError as error:  # the system has too many threads
                if call.set_running_or_notify_cancel():
                    call.set_exception(error)
            else:
                # The thread cannot be removed before this line: `remove_thread` needs the lock.
                self._running.add(call.thread)


def use_daemon_threads(concurrency: int) -> None:
    """Make `asyncio.to_thread` use daemon threads in this event loop, unless the user chose a pool.

    Args:
        concurrency: Number of functions of users that run at the same time. Each of them may keep a
            thread, in addition to the default number of threads.
    """
    loop = asyncio.get_running_loop()
    executor = getattr(loop, "_default_executor", None)
    if executor is None or getattr(executor, "_thread_name_prefix", None) == "asyncio":
        default = min(32, (os.cpu_count() or 1) + 4)  # as asyncio's own default executor
        pool = DaemonThreadPool(default + concurrency, DaemonThreadPool(_MAX_LOOKUPS))
        loop.set_default_executor(pool)
        if executor is not None:
            executor.shutdown(wait=False)
