"""Calls of functions of users that are no handlers, such as callbacks after a stop."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from picture_queue._log import Lines, Log
from picture_queue._runtime.tasks import abandon
from picture_queue._text import describe_error, traceback_of

_log = Log(__name__)

Callback = Callable[[], Awaitable[None] | None]

_CANCEL_TIMEOUT = 1.0  # seconds a cancelled function gets to end


async def call_with_timeout(seconds: float, description: str, function: Callback) -> None:
    """Call a function that may hang or raise; return after the seconds at the latest."""

    async def call() -> None:
        try:
            result = function()
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            trace = Lines(traceback_of(error) or "")
            _log.error("%s failed: %s%s", description, describe_error(error), trace)

    task = asyncio.create_task(call())
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        _log.error("%s has not ended in %g s", description, seconds)
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_TIMEOUT)
        abandon(task)
