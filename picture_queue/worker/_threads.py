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


class _Call:
    """A call that waits for a thread."""

    __slots__ = ("_function", "future")

    def __init__(self, future: Future[Any], function: Callable[[], Any]) -> None:
        self.future = future
        self._function = function

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class DaemonThreadPool(ThreadPoolExecutor):
    """A pool of daemon threads, for `asyncio.to_thread` in handlers.

    Args:
        max_workers: Threads at most. A call that never returns keeps one.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._most = max_workers
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._pool: list[threading.Thread] = []
        self._unfinished = 0  # calls that wait or run
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call the function in one of the threads.

        Raises:
            RuntimeError: The pool is closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._unfinished += 1
            self._calls.put(_Call(future, partial(fn, *args, **kwargs)))
            if self._unfinished > len(self._pool) and len(self._pool) < self._most:
                thread = threading.Thread(
                    target=self._work, name=f"picture-queue-{len(self._pool)}", daemon=True
                )
                self._pool.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait a few seconds at most for those that run."""
        with self._lock:
            while cancel_futures and not self._calls.empty():
                if (call := self._calls.get()) is not None:
                    call.future.cancel()
            if not self._closed or cancel_futures:
                self._closed = True
                for _ in self._pool:
                    self._calls.put(None)
        if wait:
            until = time.monotonic() + _CLOSING
            for thread in self._pool:
                thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            del call  # the next one may be long in coming
            with self._lock:
                self._unfinished -= 1


def use_daemon_threads(concurrency: int) -> None:
    """Has `asyncio.to_thread` use daemon threads in this event loop, unless the user chose a pool.

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
