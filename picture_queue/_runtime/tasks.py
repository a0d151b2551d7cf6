"""Tasks that run handlers, which are functions of users. No handler can stop another handler.

Without this module, a handler could do harm in three ways:

- A SystemExit or KeyboardInterrupt that leaves a task stops the event loop. The task of a handler
  catches these exceptions of the handler. `guard_tasks` replaces them in tasks that the handler
  starts.
- A task that ignores its cancellation keeps the event loop from ending. `abandon` prevents that.
- A handler can cancel all tasks that `asyncio.all_tasks` returns. `HandlerTask` ignores a
  cancellation by another handler.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from picture_queue._log import Log

_log = Log(__name__)

#: The task that runs the current handler; set in the handler and in the tasks that it starts.
current_handler: ContextVar["HandlerTask | None"] = ContextVar(
    "picture_queue_current_handler", default=None
)


class HandlerTask(asyncio.Task[None]):
    """The task of a handler. No other handler can cancel it."""

    _started: WeakSet[asyncio.Future[Any]] | None = None  # tasks that the handler started

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task, unless the caller is another handler."""
        caller = current_handler.get()
        if caller is not None and caller is not self:
            _log.warning(
                "%s cannot cancel %s: that task belongs to another handler",
                caller.get_name(),
                self.get_name(),
            )
            return False
        return super().cancel(msg)

    def cancel_from_outside(self) -> None:
        """Cancel the task even if another handler makes this call, for example to stop the worker.

        During the cancellation the handler of this task counts as the caller. So the tasks that it
        waits for with `asyncio.gather` accept the cancellation too.
        """
        token = current_handler.set(self)
        try:
            super().cancel()
        finally:
            current_handler.reset(token)

    def add_started(self, task: asyncio.Future[Any]) -> None:
        """Record a task that the handler started."""
        if self._started is None:
            self._started = WeakSet()
        self._started.add(task)

    def abandon(self) -> None:
        """Let the event loop end without this task and the tasks that its handler started."""
        for task in (self, *(self._started or ())):
            abandon(task)


class ExitOfTask(BaseException):
    """Replacement for a SystemExit or KeyboardInterrupt of a task, kept as `__cause__`."""


class _GuardedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that raises `ExitOfTask` instead of SystemExit and KeyboardInterrupt."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        try:
            return self._inner.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise ExitOfTask(repr(error)) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._inner.throw(*error)
        except (SystemExit, KeyboardInterrupt) as raised:
            raise ExitOfTask(repr(raised)) from raised

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:  # the name and stack of the coroutine, for debuggers
        return getattr(self._inner, name)


def guard_tasks() -> None:
    """Install a task factory that guards and records the tasks which handlers start."""
    loop = asyncio.get_running_loop()
    previous: Callable[..., Any] = loop.get_task_factory() or _new_task
    if hasattr(previous, "guards_tasks"):
        return

    def create_task(
        loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any
    ) -> asyncio.Future[Any]:
        handler = current_handler.get()
        if handler is not None and isinstance(coroutine, Coroutine):
            coroutine = _GuardedCoroutine(coroutine)
        task: asyncio.Future[Any] = previous(loop, coroutine, **options)
        if handler is not None:
            handler.add_started(task)
        return task

    create_task.guards_tasks = True  # type: ignore[attr-defined]
    loop.set_task_factory(create_task)


def _new_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


async def end_tasks(seconds: float) -> None:
    """Cancel all other tasks of this event loop, so that the loop can end.

    Args:
        seconds: Seconds to wait for the tasks. A task that takes longer is abandoned.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        abandon(task)


def abandon(task: asyncio.Future[Any]) -> None:
    """Let the event loop and the interpreter end without a task that ignores its cancellation.

    `asyncio.run` ends only when all registered tasks have ended, so the task is unregistered. When
    the last reference to a task is deleted, its coroutine runs once more. So a reference is kept
    for ever.
    """
    if task.done() or not isinstance(task, asyncio.Task):
        return
    import ctypes

    asyncio.tasks._unregister_task(task)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(task))
