"""Threads for the user's code that do not keep a stopped process alive.

Those of `concurrent.futures` and of `asyncio.to_thread` are joined when the event loop or the
interpreter ends. One that hangs would keep a worker that has stopped from ending.
"""

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLOSING = 2.0  # seconds a pool waits for its threads when it is closed


def in_thread(name: str, function: Callable[[], T]) -> "asyncio.Future[T | None]":
    """Call a function in a daemon thread of its own, with the context variables of the caller.

    Args:
        name: Name of the thread.
        function: What to call; it raises nothing.

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
            with contextlib.suppress(RuntimeError):  # the worker ended before the handler did
                loop.call_soon_threadsafe(set_result, value)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result


class _Call(Future[Any]):
    """A call that waits for a thread of a pool, or runs in one.

    Args:
        function: What to call.
        on_abandoned: Called with the thread if nobody waits any more while the call runs there.
    """

    def __init__(
        self, function: Callable[[], Any], on_abandoned: Callable[[threading.Thread], None]
    ) -> None:
        super().__init__()
        self._function = function
        self._on_abandoned = on_abandoned
        self._thread: threading.Thread | None = None

    def cancel(self) -> bool:
        """Cancel the call; one that runs goes on."""
        if self._thread is not None and not self.done():
            self._on_abandoned(self._thread)
        return super().cancel()

    def run(self) -> None:
        self._thread = threading.current_thread()
        if not self.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except BaseException as error:
            self.set_exception(error)
            del self  # the exception has this frame, and would keep itself alive
        else:
            self.set_result(result)


class DaemonThreadPool(ThreadPoolExecutor):
    """A pool of daemon threads, for `asyncio.to_thread` in handlers.

    A thread whose call was abandoned, by the timeout of a job for instance, leaves the pool: calls
    that hang must not leave other handlers without threads.

    Args:
        max_workers: Threads at most.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._most = max_workers
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._pool: set[threading.Thread] = set()
        self._unfinished = 0  # calls that wait, or run in the pool
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call the function in one of the threads.

        Raises:
            RuntimeError: The pool is closed.
        """
        call = _Call(partial(fn, *args, **kwargs), self._abandon)
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._unfinished += 1
            self._calls.put(call)
            self._add_thread()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait a few seconds at most for those that run."""
        with self._lock:
            self._closed = True
            while cancel_futures and not self._calls.empty():
                if (call := self._calls.get()) is not None:
                    call.cancel()
            for _ in self._pool:
                self._calls.put(None)
            threads = list(self._pool)
        until = time.monotonic() + _CLOSING
        for thread in threads if wait else ():
            thread.join(max(0.0, until - time.monotonic()))

    def _add_thread(self) -> None:
        if len(self._pool) < min(self._unfinished, self._most):
            thread = threading.Thread(target=self._work, name="picture-queue", daemon=True)
            self._pool.add(thread)
            thread.start()

    def _abandon(self, thread: threading.Thread) -> None:
        with self._lock:
            if thread in self._pool:
                self._pool.discard(thread)
                self._unfinished -= 1
                self._add_thread()

    def _work(self) -> None:
        thread = threading.current_thread()
        while (call := self._calls.get()) is not None:
            call.run()
            with self._lock:
                if thread not in self._pool:  # the call was abandoned
                    return
                self._unfinished -= 1
            del call  # the next one may take long to arrive
        with self._lock:
            self._pool.discard(thread)


def use_daemon_threads(concurrency: int) -> None:
    """Make `asyncio.to_thread` use daemon threads in this event loop, unless the user chose a pool.

    Args:
        concurrency: Jobs at the same time: each may keep a thread.
    """
    loop = asyncio.get_running_loop()
    chosen = getattr(loop, "_default_executor", None)
    if chosen is None or getattr(chosen, "_thread_name_prefix", None) == "asyncio":
        most = min(32, (os.cpu_count() or 1) + 4) + concurrency
        loop.set_default_executor(DaemonThreadPool(most))
        if chosen is not None:
            chosen.shutdown(wait=False)
