"""Bad jobs do not affect ordinary jobs: every kind of bad job, over every transport.

The tests do not measure time. While bad jobs exist, every ordinary job must complete in its first
attempt. A generous timeout only ends a test that hangs.
"""

import pytest

from .bad_jobs import DISTURB_OTHERS, ENVIRONMENT, HANDLERS, RESULTS, ROWS, STUCK, BadJob, make_job
from .conftest import TRANSPORTS, worker_environment
from .flows import enqueue_mixed, ordinary_jobs, run_with_ordinary_jobs
from .harness import Harness
from .misbehaviour import BLOCK_SECONDS

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.parametrize("transport", TRANSPORTS),
]

# The kinds of bad jobs that share one worker, and those that need a separate worker.
BAD_JOBS_IN_SHARED_WORKER = [
    bad_job
    for bad_job in (*HANDLERS, *DISTURB_OTHERS, *RESULTS, *ROWS, *ENVIRONMENT)
    if not bad_job.needs_separate_worker
]
BAD_JOBS_IN_SEPARATE_WORKER = [
    bad_job for bad_job in (*STUCK, *ENVIRONMENT) if bad_job.needs_separate_worker
]


@pytest.mark.parametrize("bad_job", BAD_JOBS_IN_SHARED_WORKER, ids=lambda bad_job: bad_job.name)
async def test_ordinary_jobs_complete_despite_bad_jobs(shared, service, db, transport, bad_job):
    queue, worker = shared.get(transport)
    try:
        await run_with_ordinary_jobs(Harness(service, db, queue, worker), bad_job)
    except BaseException:
        shared.replace(transport)
        raise


async def test_the_worker_stops_after_all_kinds_of_bad_jobs(shared, service, db, transport):
    """Stop the shared worker, in which `test_ordinary_jobs_complete_despite_bad_jobs` has run."""
    queue, worker = shared.get(transport)
    harness = Harness(service, db, queue, worker)
    try:
        await harness.expect_completed(await harness.enqueue(*ordinary_jobs()))
        await worker.stop(harness.wait_timeout)
    finally:
        shared.replace(transport)


@pytest.mark.slow
@pytest.mark.parametrize("bad_job", BAD_JOBS_IN_SEPARATE_WORKER, ids=lambda bad_job: bad_job.name)
async def test_ordinary_jobs_complete_despite_bad_jobs_and_the_worker_stops(
    start, stack, service, db, transport, bad_job
):
    queue, worker = start(worker_environment(stack, transport), **bad_job.settings)
    harness = Harness(service, db, queue, worker)
    await run_with_ordinary_jobs(harness, bad_job)
    if not bad_job.checks_stop:
        await worker.stop(harness.wait_timeout)


BLOCKING_JOB = BadJob(
    "blocks the event loop", make_job("blocks the event loop", max_attempts=3), count=1
)


async def test_a_blocked_event_loop_loses_no_lease_and_the_log_names_its_job(
    start, stack, service, db, transport
):
    queue, worker = start(worker_environment(stack, transport), lease=3)
    await block_event_loop(Harness(service, db, queue, worker))
    await worker.stop(90)


async def block_event_loop(harness: Harness) -> None:
    """Block the event loop for longer than a lease, while maintenance sweeps expired leases."""
    running = await harness.enqueue(*[
        {"job_type": "ordinary", "payload": {"n": n, "seconds": BLOCK_SECONDS}} for n in range(3)
    ])  # fmt: skip
    bad_ids, ordinary_ids = await enqueue_mixed(harness, BLOCKING_JOB)

    async def maintain_until_finished() -> bool:
        await harness.db.execute("select maintain_jobs(force => true)")
        return await harness.have_finished([*bad_ids, *running])

    await harness.wait_until(maintain_until_finished, problem="the jobs do not end")
    await harness.expect_completed([*bad_ids, *running, *ordinary_ids])
    harness.expect_logged(rf"(?i){bad_ids[0]}.*block")
