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
_held: list[object] = []


class Raised:
    """An exception, carried over from the thread that raised it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def in_thread(name: str, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    """Start the function, with the context variables of the caller.

    Args:
        name: Name of the thread.
        function: What to call.
        args: What to call it with.

    Returns:
        What the function returned, or a `Raised`. The future itself never fails: an exception such
        as SystemExit or StopIteration must not reach the event loop. Cancelling it does not end the
        thread.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any) -> None:
        if not result.done():
            result.set_result(value)

    def run() -> None:
        value: Any
        try:
            value = context.run(function, *args)
        except BaseException as error:
            value = Raised(error)
        with contextlib.suppress(RuntimeError):  # the worker ended before the handler did
            loop.call_soon_threadsafe(settle, value)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result


class _Call(Future[Any]):
    """A call of a pool.

    Args:
        function: What to call.
        on_abandoned: Called if nobody waits any more for the call while it runs.
    """

    def __init__(
        self, function: Callable[[], Any], on_abandoned: Callable[["_Call"], None]
    ) -> None:
        super().__init__()
        self.is_abandoned = False
        self._function = function
        self._on_abandoned = on_abandoned

    def cancel(self) -> bool:
        """Cancel the call; one that runs goes on."""
        is_cancelled = super().cancel()
        if not is_cancelled:
            self._on_abandoned(self)
        return is_cancelled

    def run(self) -> None:
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

    A thread whose call was abandoned, by the timeout of a job for instance, does not count: calls
    that hang must not leave other handlers without threads.

    Args:
        max_workers: Threads at most.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._most = max_workers
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._pool: set[threading.Thread] = set()
        self._unfinished = 0  # calls that wait or run
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

    def _abandon(self, call: _Call) -> None:
        with self._lock:
            if call.running() and not call.is_abandoned:
                call.is_abandoned = True
                self._most += 1
                self._add_thread()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            with self._lock:
                self._unfinished -= 1
                self._most -= call.is_abandoned
                if len(self._pool) > self._most:
                    self._pool.discard(threading.current_thread())
                    return
            del call  # the next one may take long to arrive
        with self._lock:
            self._pool.discard(threading.current_thread())


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


def hold_forever(task: asyncio.Future[Any]) -> None:
    """Let the event loop and the interpreter end without a task that ignores its cancellation.

    The end of `asyncio.run` waits for all tasks it knows. A task that is not known any more would
    be closed with its last reference, which runs its code once more. So it stays referenced: the
    stack of a daemon thread is never unwound.
    """
    if task.done() or not isinstance(task, asyncio.Task):
        return
    asyncio.tasks._unregister_task(task)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    _held.append(task)
    if len(_held) == 1:
        threading.Thread(
            target=_wait_forever, args=(_held,), name="picture-queue-held", daemon=True
        ).start()


def _wait_forever(held: list[object]) -> None:
    threading.Event().wait()
