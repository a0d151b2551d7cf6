"""Runs a function in a thread of its own.

Not in an executor: its threads are joined when the interpreter ends, and one that hangs would keep
a stopped worker alive.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any


class Raised:
    """What a function raised, carried over from its thread."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def in_thread(name: str, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    """Starts the function, with the context variables of the caller.

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
