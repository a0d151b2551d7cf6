"""Ordinary jobs beside a bad item, through a worker."""

from typing import Any
from uuid import UUID

from .kinds import Kind, runs
from .world import CONCURRENCY, World, expect


def ordinary(count: int = CONCURRENCY, **payload: Any) -> list[dict[str, Any]]:
    """Ordinary jobs, in the event loop and in threads."""
    types = ("ordinary", "ordinary", "ordinary-thread")
    return [{"job_type": types[n % 3], "payload": {"n": n, **payload}} for n in range(count)]


async def place(world: World, kind: Kind) -> tuple[list[UUID], list[UUID]]:
    """Place good and bad jobs in turns; none can start before all are there and bad.

    Returns:
        The bad ones, the ordinary ones.
    """
    await world.service.queues.set(world.queue)
    await world.service.queues.pause(world.queue)
    good = ordinary(max(kind.count, CONCURRENCY))
    mixed = [job for pair in zip([kind.job] * kind.count, good, strict=False) for job in pair]
    ids = await world.enqueue(*mixed, *good[kind.count :])
    bad = ids[: 2 * kind.count : 2]
    await kind.spoil(world, bad)
    await world.service.queues.resume(world.queue)
    return bad, [job for job in ids if job not in bad]


async def run(world: World, kind: Kind) -> None:
    """Let ordinary jobs complete beside bad ones, and ask what is wrong."""

    async def has_its_state() -> bool:
        return all(kind.state(row) for row in await world.rows(bad))

    bad, good = await place(world, kind)
    await world.completed_at_once(good)
    if kind.state is runs:
        expect(await has_its_state(), f"{[dict(row) for row in await world.rows(bad)]}")
    await world.completed_at_once(await world.enqueue(*ordinary()))
    try:
        await world.until(has_its_state, "the bad jobs have another state")
    except AssertionError as error:
        rows = [dict(row) for row in await world.rows(bad)]
        raise type(error)(f"{rows}: {error}") from None
    if kind.is_stopped:
        await world.worker.stop(world.guard)
    if kind.says:
        await world.told(bad, kind.says)
    await kind.check_reason(world, bad)
    # What waits is not to come back beside the next kind.
    await world.service.jobs.change("cancel", queue=world.queue)
    # Other tests read all jobs of this database, with decoders that spoiled payloads stop.
    await world.db.execute("update job_queue set payload = '{}' where id = any($1)", bad)
