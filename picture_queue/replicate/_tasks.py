"""Two ways to wait for coroutines that asyncio does not have ready-made."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_GIVING_UP = 1.0  # seconds for a task to take note of its cancellation


async def to_its_end(work: Coroutine[Any, Any, T], patience: float) -> T:
    """Runs something that should not be cut in the middle.

    A cancellation waits for it to end, for at most ``patience`` seconds, and is raised then; what
    the work returned or raised is dropped in that case.

    Args:
        work: What to run.
        patience: Seconds.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=patience)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_GIVING_UP)
        if task.done() and not task.cancelled():
            task.exception()  # taken note of, or asyncio complains that nobody did
        raise


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs everything at once and gives the results in order.

    The first error ends the rest and is raised as it is, not as a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
