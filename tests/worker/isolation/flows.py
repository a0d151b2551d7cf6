"""The steps of each test: bad and ordinary jobs run together in one worker."""

from typing import Any
from uuid import UUID

from .kinds import Kind, is_running
from .world import CONCURRENCY, World, expect


def ordinary_jobs(count: int = CONCURRENCY, **payload: Any) -> list[dict[str, Any]]:
    """Return ordinary jobs, some with handlers in the event loop and some in threads."""
    types = ("ordinary", "ordinary", "ordinary-thread")
    return [{"job_type": types[n % 3], "payload": {"n": n, **payload}} for n in range(count)]


async def enqueue_mixed(world: World, kind: Kind) -> tuple[list[UUID], list[UUID]]:
    """Enqueue bad and ordinary jobs alternately, in a queue that is paused until all are ready.

    Returns:
        The ids of the bad jobs, and those of the ordinary jobs.
    """
    await world.service.queues.set(world.queue)
    await world.service.queues.pause(world.queue)
    good = ordinary_jobs(max(kind.count, CONCURRENCY))
    mixed = [job for pair in zip([kind.job] * kind.count, good, strict=False) for job in pair]
    ids = await world.enqueue(*mixed, *good[kind.count :])
    bad = ids[: 2 * kind.count : 2]
    await kind.spoil(world, bad)
    await world.service.queues.resume(world.queue)
    return bad, [job for job in ids if job not in bad]


async def run(world: World, kind: Kind) -> None:
    """Run ordinary jobs together with bad ones, and check that the bad ones are reported."""

    async def bad_jobs_have_state() -> bool:
        return all(kind.state(row) for row in await world.rows(bad))

    bad, good = await enqueue_mixed(world, kind)
    await world.expect_completed(good)
    if kind.state is is_running:
        expect(await bad_jobs_have_state(), f"{[dict(row) for row in await world.rows(bad)]}")
    await world.expect_completed(await world.enqueue(*ordinary_jobs()))
    try:
        await world.until(bad_jobs_have_state, problem="the bad jobs do not reach their state")
    except AssertionError as error:
        rows = [dict(row) for row in await world.rows(bad)]
        raise type(error)(f"{rows}: {error}") from None
    if kind.stops_worker:
        await world.worker.stop(world.wait_timeout)
    if kind.pattern:
        await world.expect_reason(bad, kind.pattern)
    await kind.check_reason(world, bad)
    # Cancel the jobs that are left, so that they do not run during the next test.
    await world.service.jobs.change("cancel", queue=world.queue)
    # Other tests read all jobs of this database, and could not decode the spoiled payloads.
    await world.db.execute("update job_queue set payload = '{}' where id = any($1)", bad)
