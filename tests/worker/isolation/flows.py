"""The flow of each test: bad and ordinary jobs run together in one worker."""

from typing import Any
from uuid import UUID

from .kinds import Kind, runs
from .world import CONCURRENCY, World, expect


def ordinary(count: int = CONCURRENCY, **payload: Any) -> list[dict[str, Any]]:
    """Return ordinary jobs, some with handlers in the event loop and some in threads."""
    types = ("ordinary", "ordinary", "ordinary-thread")
    return [{"job_type": types[n % 3], "payload": {"n": n, **payload}} for n in range(count)]


async def place(world: World, kind: Kind) -> tuple[list[UUID], list[UUID]]:
    """Enqueue bad and ordinary jobs alternately, in a queue that is paused until all are ready.

    Returns:
        The ids of the bad jobs, and those of the ordinary jobs.
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
    """Run ordinary jobs together with bad ones, and check that the reason is reported."""

    async def has_its_state() -> bool:
        return all(kind.state(row) for row in await world.rows(bad))

    bad, good = await place(world, kind)
    await world.expect_completed(good)
    if kind.state is runs:
        expect(await has_its_state(), f"{[dict(row) for row in await world.rows(bad)]}")
    await world.expect_completed(await world.enqueue(*ordinary()))
    try:
        await world.until(has_its_state, "the bad jobs have another state")
    except AssertionError as error:
        rows = [dict(row) for row in await world.rows(bad)]
        raise type(error)(f"{rows}: {error}") from None
    if kind.is_stopped:
        await world.worker.stop(world.guard)
    if kind.pattern:
        await world.expect_reason(bad, kind.pattern)
    await kind.check_reason(world, bad)
    # Jobs that still wait must not run during the next test.
    await world.service.jobs.change("cancel", queue=world.queue)
    # Other tests read all jobs of this database, and cannot decode the spoiled payloads.
    await world.db.execute("update job_queue set payload = '{}' where id = any($1)", bad)
