"""Functions that delay the cancellation of a coroutine, which asyncio does not provide."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_CANCEL_TIMEOUT = 1.0  # seconds for a task to end after its cancellation


async def run_to_end(work: Coroutine[Any, Any, T], timeout: float) -> T:
    """Run a coroutine and delay a cancellation of the caller until the coroutine has ended.

    After a cancellation the result or exception of the coroutine is dropped, and the
    `CancelledError` is raised.

    Args:
        work: The coroutine.
        timeout: Maximum delay of a cancellation, in seconds; then the coroutine is cancelled too.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_TIMEOUT)
        if task.done() and not task.cancelled():
            task.exception()  # marks it as retrieved, so that asyncio does not log it
        raise


async def finish_after_cancel(
    work: Coroutine[Any, Any, T], is_wanted: Callable[[], bool], timeout: float
) -> T:
    """Run a coroutine and return its result even if the caller is cancelled in the meantime.

    Args:
        work: The coroutine.
        is_wanted: Called at a cancellation of the caller; False: the coroutine is cancelled too.
        timeout: Maximum seconds from the cancellation to the end of the coroutine; then it is
            cancelled too.

    Raises:
        asyncio.CancelledError: The coroutine was cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if is_wanted():
            await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_TIMEOUT)
        if not task.done():
            raise
        return task.result()
