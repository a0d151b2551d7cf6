"""A function that delays the cancellation of a coroutine, which asyncio does not provide."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_CANCEL_TIMEOUT = 1.0  # seconds for a task to end after its cancellation


async def finish_despite_cancel(
    work: Coroutine[Any, Any, T], timeout: Callable[[], float], *, keep_result: bool
) -> T:
    """Run a coroutine, and let it end even if the caller is cancelled in the meantime.

    Args:
        work: The coroutine.
        timeout: Called at a cancellation of the caller. Returns the seconds that the coroutine has
            to end; then it is cancelled too.
        keep_result: True: the result or exception of the coroutine replaces the `CancelledError`
            of the caller. False: it is dropped, and the `CancelledError` is raised.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=timeout())
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_TIMEOUT)
        if keep_result and task.done():
            return task.result()
        if task.done() and not task.cancelled():
            task.exception()  # marks it as retrieved, so that asyncio does not log it
        raise
