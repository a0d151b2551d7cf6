"""Tasks that handlers start must neither stop the event loop nor keep it from ending.

A SystemExit or KeyboardInterrupt that leaves a task stops its event loop, and with it the worker
and all its other jobs. An attempt catches those of its handler; here are those of other tasks that
the handler starts, as `asyncio.TaskGroup` does. An attempt is told of them, since one of them may
ignore its cancellation as a handler can.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any

from picture_queue.worker._threads import hold_forever

#: In the context of a handler, and of whatever it starts: takes the tasks that are started there.
on_task: ContextVar[Callable[[asyncio.Future[Any]], None] | None] = ContextVar(
    "picture_queue_on_task", default=None
)


class ExitOfTask(BaseException):
    """Replacement for the SystemExit or KeyboardInterrupt of a task, which is its cause."""


class _Guarded(Coroutine[Any, Any, Any]):
    """A coroutine whose SystemExit or KeyboardInterrupt comes out as an `ExitOfTask`."""

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

    def __getattr__(self, name: str) -> Any:  # its name and stack, for debuggers
        return getattr(self._inner, name)


class _TaskFactory:
    """A factory of tasks in front of the one that was there before."""

    def __init__(self, previous: Callable[..., Any] | None) -> None:
        self._make = previous or _new_task

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any
    ) -> asyncio.Future[Any]:
        take = on_task.get()
        if take is not None and isinstance(coroutine, Coroutine):
            coroutine = _Guarded(coroutine)
        made: asyncio.Future[Any] = self._make(loop, coroutine, **options)
        if take is not None:
            take(made)
        return made


def _new_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


def guard_tasks() -> None:
    """Guard the tasks that handlers start in this event loop."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    if not isinstance(factory, _TaskFactory):
        loop.set_task_factory(_TaskFactory(factory))


async def end_tasks(seconds: float) -> None:
    """Cancel what still runs in this event loop, so that the loop can end.

    Args:
        seconds: Time to end for each; the loop ends without those that take longer.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        hold_forever(task)
