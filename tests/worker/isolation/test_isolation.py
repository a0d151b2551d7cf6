"""Bad jobs do not affect ordinary jobs: every kind of bad job, over every transport.

The tests do not measure time. While bad jobs exist, every ordinary job must complete in its first
attempt. A generous timeout only ends a test that hangs.
"""

import pytest

from .conftest import TRANSPORTS, environment
from .flows import enqueue_mixed, ordinary_jobs, run
from .kinds import HANDLERS, HARM, RESULTS, ROWS, SETTINGS, STUCK, Kind, bad
from .misbehaviour import BLOCK_SECONDS
from .world import World

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.parametrize("transport", TRANSPORTS),
]

# The kinds of bad jobs that share one worker, and those that need a separate worker.
KINDS_IN_SHARED_WORKER = [
    one for one in (*HANDLERS, *HARM, *RESULTS, *ROWS, *SETTINGS) if not one.is_alone
]
KINDS_IN_SEPARATE_WORKER = [one for one in (*STUCK, *SETTINGS) if one.is_alone]


@pytest.mark.parametrize("kind", KINDS_IN_SHARED_WORKER, ids=lambda kind: kind.name)
async def test_ordinary_jobs_complete_despite_bad_jobs(shared, service, db, transport, kind):
    queue, worker = shared.get(transport)
    try:
        await run(World(service, db, queue, worker), kind)
    except BaseException:
        shared.replace(transport)
        raise


async def test_the_worker_stops_after_all_kinds_of_bad_jobs(shared, service, db, transport):
    """Stop the shared worker, which has run the kinds of the test above."""
    queue, worker = shared.get(transport)
    world = World(service, db, queue, worker)
    try:
        await world.expect_completed(await world.enqueue(*ordinary_jobs()))
        await worker.stop(world.wait_timeout)
    finally:
        shared.replace(transport)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_IN_SEPARATE_WORKER, ids=lambda kind: kind.name)
async def test_ordinary_jobs_complete_despite_bad_jobs_and_the_worker_stops(
    start, stack, service, db, transport, kind
):
    queue, worker = start(environment(stack, transport), **kind.settings)
    world = World(service, db, queue, worker)
    await run(world, kind)
    if not kind.stops_worker:
        await worker.stop(world.wait_timeout)


BLOCKING = Kind("blocks the event loop", bad("blocks the event loop", max_attempts=3), count=1)


async def test_a_blocked_event_loop_loses_no_lease_and_the_log_names_its_job(
    start, stack, service, db, transport
):
    queue, worker = start(environment(stack, transport), lease=3)
    await block_event_loop(World(service, db, queue, worker))
    await worker.stop(90)


async def block_event_loop(world: World) -> None:
    """Block the event loop for longer than a lease, while maintenance expires leases."""
    running = await world.enqueue(*[
        {"job_type": "ordinary", "payload": {"n": n, "seconds": BLOCK_SECONDS}} for n in range(3)
    ])  # fmt: skip
    bad, good = await enqueue_mixed(world, BLOCKING)

    async def maintain_until_finished() -> bool:
        await world.db.execute("select maintain_jobs(force => true)")
        return await world.have_finished([*bad, *running])

    await world.until(maintain_until_finished, problem="the jobs do not end")
    await world.expect_completed([*bad, *running, *good])
    world.expect_logged(rf"(?i){bad[0]}.*block")
