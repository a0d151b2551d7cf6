"""Two ways to wait for coroutines that asyncio does not have."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_CANCEL_TIMEOUT = 1.0  # seconds for a task to end after its cancellation


async def run_to_end(work: Coroutine[Any, Any, T], timeout: float) -> T:
    """Run a coroutine that a cancellation should not cut in the middle.

    A cancellation waits for the coroutine to end and is raised then; its result or exception is
    dropped in that case.

    Args:
        work: The coroutine.
        timeout: Longest such wait, seconds.
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


async def run_all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at the same time and return the results in order.

    The first error ends the rest and is raised as it is, not as a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
