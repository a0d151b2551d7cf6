"""Threads for the functions of users that do not keep a stopped process alive.

Those of `concurrent.futures` and of `asyncio.to_thread` are joined when the event loop or the
interpreter ends. One that hangs would keep the process from ending.
"""

import asyncio
import contextlib
import contextvars
import os
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


def in_thread(name: str, function: Callable[[], T]) -> "asyncio.Future[T | None]":
    """Call a function in a daemon thread of its own, with the context variables of the caller.

    Args:
        name: Name of the thread.
        function: A function that raises nothing.

    Returns:
        What the function returned; None if it raised in spite of that. Cancelling the future does
        not end the thread.
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
    """A call of a function, which waits for a thread or runs in one."""

    def __init__(self, pool: "DaemonThreadPool", function: Callable[[], Any]) -> None:
        super().__init__()
        self._pool = pool
        self._function = function
        self.thread = threading.Thread(target=self._run, name="picture-queue", daemon=True)

    def cancel(self) -> bool:
        """Cancel the call. One that runs goes on, and leaves the pool."""
        if self.running():
            self._pool.leave(self.thread)
        return super().cancel()

    def _run(self) -> None:
        if self.set_running_or_notify_cancel():
            try:
                result = self._function()
            except BaseException as error:
                self.set_exception(error)
            else:
                self.set_result(result)
        self._pool.leave(self.thread)
        del self  # an exception refers to this frame, and would keep itself alive


class DaemonThreadPool(ThreadPoolExecutor):
    """An executor for `asyncio.to_thread` with a daemon thread for each call.

    A call that nobody waits for any more, after a timeout for instance, leaves the pool: calls that
    hang must not leave other callers without threads.

    Args:
        max_threads: Calls that run at the same time, at most.
    """

    def __init__(self, max_threads: int) -> None:
        super().__init__(1)  # its threads are never started
        self._most = max_threads
        self._waiting: deque[_Call] = deque()
        self._pool: set[threading.Thread] = set()
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call the function in a thread.

        Raises:
            RuntimeError: The pool is closed.
        """
        call = _Call(self, partial(fn, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(call)
            self._start_threads()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait a few seconds at most for those that run."""
        with self._lock:
            self._closed = True
            cancelled: list[_Call] = []
            if cancel_futures:
                cancelled, self._waiting = list(self._waiting), deque()
            threads = list(self._pool) if wait else []
        for call in cancelled:
            call.cancel()
        until = time.monotonic() + _CLOSE_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def leave(self, thread: threading.Thread) -> None:
        """Give the place of a thread to the next call, unless it has left before."""
        with self._lock:
            self._pool.discard(thread)
            self._start_threads()

    def _start_threads(self) -> None:
        while self._waiting and len(self._pool) < self._most:
            thread = self._waiting.popleft().thread
            thread.start()  # it may raise: there can be too many threads
            self._pool.add(thread)  # it cannot have left yet: that needs the lock


def use_daemon_threads(concurrency: int) -> None:
    """Make `asyncio.to_thread` use daemon threads in this event loop, unless the user chose a pool.

    Args:
        concurrency: Functions of users at the same time: each may keep a thread.
    """
    loop = asyncio.get_running_loop()
    chosen = getattr(loop, "_default_executor", None)
    if chosen is None or getattr(chosen, "_thread_name_prefix", None) == "asyncio":
        most = min(32, (os.cpu_count() or 1) + 4) + concurrency
        loop.set_default_executor(DaemonThreadPool(most))
        if chosen is not None:
            chosen.shutdown(wait=False)
