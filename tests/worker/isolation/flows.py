"""The steps that the tests share: bad and ordinary jobs run together in one worker."""

from typing import Any
from uuid import UUID

from .bad_jobs import BadJob, is_running
from .harness import CONCURRENCY, Harness, expect


def ordinary_jobs(count: int = CONCURRENCY, **payload: Any) -> list[dict[str, Any]]:
    """Return ordinary jobs, some with handlers in the event loop and some in threads."""
    job_types = ("ordinary", "ordinary", "ordinary-thread")
    return [{"job_type": job_types[n % 3], "payload": {"n": n, **payload}} for n in range(count)]


async def enqueue_mixed(harness: Harness, bad_job: BadJob) -> tuple[list[UUID], list[UUID]]:
    """Enqueue bad and ordinary jobs alternately, in a queue that is paused until all are ready.

    Returns:
        The ids of the bad jobs, and the ids of the ordinary jobs.
    """
    await harness.service.queues.set(harness.queue)
    await harness.service.queues.pause(harness.queue)
    ordinary = ordinary_jobs(max(bad_job.count, CONCURRENCY))
    pairs = zip([bad_job.job] * bad_job.count, ordinary, strict=False)
    mixed = [job for pair in pairs for job in pair]
    ids = await harness.enqueue(*mixed, *ordinary[bad_job.count :])
    bad_ids = ids[: 2 * bad_job.count : 2]
    await bad_job.spoil(harness, bad_ids)
    await harness.service.queues.resume(harness.queue)
    return bad_ids, [job_id for job_id in ids if job_id not in bad_ids]


async def run_with_ordinary_jobs(harness: Harness, bad_job: BadJob) -> None:
    """Run bad jobs together with ordinary jobs.

    Check that the ordinary jobs complete, and that the reason of the bad jobs is reported.
    """

    async def bad_jobs_have_state() -> bool:
        return all(bad_job.is_expected(row) for row in await harness.read_rows(bad_ids))

    bad_ids, ordinary_ids = await enqueue_mixed(harness, bad_job)
    await harness.expect_completed(ordinary_ids)
    if bad_job.is_expected is is_running:
        # The ordinary jobs must complete while the bad jobs still run.
        expect(
            await bad_jobs_have_state(),
            f"{[dict(row) for row in await harness.read_rows(bad_ids)]}",
        )
    await harness.expect_completed(await harness.enqueue(*ordinary_jobs()))
    try:
        await harness.wait_until(
            bad_jobs_have_state, problem="the bad jobs do not reach their state"
        )
    except AssertionError as error:
        rows = [dict(row) for row in await harness.read_rows(bad_ids)]
        raise type(error)(f"{rows}: {error}") from None
    if bad_job.checks_stop:
        await harness.worker.stop(harness.wait_timeout)
    if bad_job.pattern:
        await harness.expect_reason(bad_ids, bad_job.pattern)
    await bad_job.check_report(harness, bad_ids)
    # Cancel the unfinished jobs, so that they do not run during the next test.
    await harness.service.jobs.change("cancel", queue=harness.queue)
    # Other tests read all jobs of this database, and could not decode the spoiled payloads.
    await harness.db.execute("update job_queue set payload = '{}' where id = any($1)", bad_ids)
