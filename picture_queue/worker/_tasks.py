"""Tasks that handlers start must not stop the event loop.

A SystemExit or KeyboardInterrupt that leaves a task stops its event loop, and with it the worker
and all its other jobs. An attempt catches those of its handler; here are those of other tasks that
the handler starts, as `asyncio.TaskGroup` does.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any

#: True in the context of a handler, and of whatever it starts.
in_handler: ContextVar[bool] = ContextVar("picture_queue_in_handler", default=False)


class ExitOfTask(BaseException):
    """Stands for the SystemExit or KeyboardInterrupt of a task, which is its cause."""


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
    """Makes the tasks of an event loop, as the factory that was there before or as asyncio does."""

    def __init__(self, previous: Callable[..., Any] | None) -> None:
        self._make = previous or _new_task

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any
    ) -> asyncio.Future[Any]:
        if in_handler.get() and isinstance(coroutine, Coroutine):
            coroutine = _Guarded(coroutine)
        made: asyncio.Future[Any] = self._make(loop, coroutine, **options)
        return made


def _new_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


def guard_tasks() -> None:
    """Has the tasks that handlers start in this event loop guarded."""
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    if not isinstance(factory, _TaskFactory):
        loop.set_task_factory(_TaskFactory(factory))
