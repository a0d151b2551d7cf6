"""Bad jobs do not affect ordinary jobs: every kind of bad job, over every transport.

The tests measure no time. While the bad jobs exist, every ordinary job must complete in its first
attempt; a generous timeout only ends a test that hangs.
"""

import pytest

from .conftest import TRANSPORTS, environment
from .flows import enqueue_mixed, ordinary, run
from .kinds import HANDLERS, HARM, RESULTS, ROWS, SETTINGS, STUCK, Kind, bad
from .misbehaviour import BLOCKED
from .world import World

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.parametrize("transport", TRANSPORTS),
]

# The kinds of bad jobs that share one worker, and those that need a separate worker.
SHARING = [one for one in (*HANDLERS, *HARM, *RESULTS, *ROWS, *SETTINGS) if not one.is_alone]
SEPARATE = [one for one in (*STUCK, *SETTINGS) if one.is_alone]


@pytest.mark.parametrize("kind", SHARING, ids=lambda kind: kind.name)
async def test_ordinary_jobs_complete_beside_bad_jobs(shared, service, db, transport, kind):
    queue, worker = shared.get(transport)
    try:
        await run(World(service, db, queue, worker), kind)
    except BaseException:
        shared.replace(transport)
        raise


async def test_the_worker_stops_after_all_kinds_of_bad_jobs(shared, service, db, transport):
    queue, worker = shared.get(transport)
    world = World(service, db, queue, worker)
    try:
        await world.expect_completed(await world.enqueue(*ordinary()))
        await worker.stop(world.guard)
    finally:
        shared.replace(transport)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEPARATE, ids=lambda kind: kind.name)
async def test_ordinary_jobs_complete_beside_bad_jobs_and_the_worker_stops(
    start, stack, service, db, transport, kind
):
    queue, worker = start(environment(stack, transport), **kind.settings)
    world = World(service, db, queue, worker)
    await run(world, kind)
    if not kind.is_stopped:
        await worker.stop(world.guard)


BLOCKS = Kind("blocks the event loop", bad("blocks the event loop", max_attempts=3), count=1)


async def test_a_blocked_event_loop_loses_no_lease_and_the_log_names_its_job(
    start, stack, service, db, transport
):
    queue, worker = start(environment(stack, transport), lease=3)
    await block(World(service, db, queue, worker))
    await worker.stop(90)


async def block(world: World) -> None:
    """Block the event loop for longer than a lease, while maintenance expires leases."""
    running = await world.enqueue(*[
        {"job_type": "ordinary", "payload": {"n": n, "seconds": BLOCKED}} for n in range(3)
    ])  # fmt: skip
    bad, good = await enqueue_mixed(world, BLOCKS)

    async def maintain_until_finished() -> bool:
        await world.db.execute("select maintain_jobs(force => true)")
        return await world.finished([*bad, *running])

    await world.until(maintain_until_finished, "the jobs do not end")
    await world.expect_completed([*bad, *running, *good])
    world.expect_logged(rf"(?i){bad[0]}.*block")
