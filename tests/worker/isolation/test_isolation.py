"""A bad job ends alone: each kind of it beside ordinary jobs, over each transport.

No time is measured: ordinary jobs are to complete in their first attempt while the bad ones are
bad, and only a wait that never ends is cut off.
"""

import pytest

from .conftest import WAYS, environment
from .flows import ordinary, place, run
from .kinds import HANDLERS, HARM, RESULTS, ROWS, SETTINGS, STUCK, Kind, bad
from .misbehaviour import BLOCKED
from .world import World

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.parametrize("way", WAYS),
]

TOGETHER = [one for one in (*HANDLERS, *HARM, *RESULTS, *ROWS, *SETTINGS) if not one.is_alone]
ALONE = [one for one in (*STUCK, *SETTINGS) if one.is_alone]


@pytest.mark.parametrize("kind", TOGETHER, ids=lambda kind: kind.name)
async def test_ordinary_jobs_complete_beside(shared, service, db, way, kind):
    queue, worker = shared.get(way)
    try:
        await run(World(service, db, queue, worker), kind)
    except BaseException:
        shared.give_up(way)
        raise


async def test_the_worker_stops_after_all_that(shared, service, db, way):
    queue, worker = shared.get(way)
    world = World(service, db, queue, worker)
    try:
        await world.completed_at_once(await world.enqueue(*ordinary()))
        await worker.stop(world.guard)
    finally:
        shared.give_up(way)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALONE, ids=lambda kind: kind.name)
async def test_ordinary_jobs_complete_and_the_worker_stops_beside(
    start, stack, service, db, way, kind
):
    queue, worker = start(environment(stack, way), **kind.settings)
    world = World(service, db, queue, worker)
    await run(world, kind)
    if not kind.is_stopped:
        await worker.stop(world.guard)


BLOCKS = Kind("blocks the event loop", bad("blocks the event loop", max_attempts=3), count=1)


async def test_a_blocked_event_loop_loses_no_lease_and_its_handler_is_named(
    start, stack, service, db, way
):
    queue, worker = start(environment(stack, way), lease=3)
    await block(World(service, db, queue, worker))
    await worker.stop(90)


async def block(world: World) -> None:
    """Block the event loop longer than leases last, while leases are swept."""
    running = await world.enqueue(*[
        {"job_type": "ordinary", "payload": {"n": n, "seconds": BLOCKED}} for n in range(3)
    ])  # fmt: skip
    bad, good = await place(world, BLOCKS)

    async def has_swept() -> bool:
        await world.db.execute("select maintain_jobs(force => true)")
        return await world.finished([*bad, *running])

    await world.until(has_swept, "the jobs do not end")
    await world.completed_at_once([*bad, *running, *good])
    world.logged(rf"(?i){bad[0]}.*block")
