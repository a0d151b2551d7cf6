"""The state of a job after its handler returns a result or raises an exception."""

import threading
from typing import Any

import pytest
from pydantic import BaseModel

from picture_queue import (
    Backoff,
    Cancel,
    JobCancelled,
    JobContext,
    JobFailed,
    JobStatus,
    Park,
    PermanentFailure,
    Snooze,
)
from picture_queue.worker import SyncJobContext


class Resize(BaseModel):
    path: str
    width: int


async def test_a_job_is_run_and_its_result_stored(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("resize")
    async def resize(payload: Resize, job: JobContext) -> dict[str, Any]:
        await job.progress(50, "halfway")
        return {"path": payload.path, "width": payload.width, "attempt": job.attempt}

    job = await service.jobs.enqueue("resize", {"path": "a.png", "width": "40"}, queue=queue)
    async with worker:
        result = await service.jobs.result(job.id, timeout=15)
        name = worker.name
    assert result == {"path": "a.png", "width": 40, "attempt": 1}
    completed = await service.jobs.get(job.id)
    assert (completed.progress, completed.attempt, completed.worker) == (100, 1, name)


async def test_a_sync_handler_runs_in_a_thread_and_shows_progress(service, queue, new_worker):
    worker = new_worker()
    progress_seen = threading.Event()

    @worker.handler("resize")
    def resize(payload: Resize, job: SyncJobContext) -> bool:
        job.progress(40, "downloading")
        assert progress_seen.wait(10)
        return threading.current_thread() is threading.main_thread()

    job = await service.jobs.enqueue("resize", {"path": "a.png", "width": 4}, queue=queue)
    async with worker:
        states = []
        async for event in service.jobs.watch(job.id, timeout=15):
            states.append((event.progress, event.message))
            if event.progress == 40:
                progress_seen.set()
    assert (40, "downloading") in states
    assert (await service.jobs.get(job.id)).result is False


async def test_an_invalid_payload_fails_its_job_and_the_worker_continues(
    service, queue, new_worker
):
    worker = new_worker()

    @worker.handler("resize")
    async def resize(payload: Resize) -> int:
        return payload.width

    invalid_job = await service.jobs.enqueue("resize", {"path": "a", "width": "wide"}, queue=queue)
    async with worker:
        with pytest.raises(JobFailed, match=r"payload.width is 'wide': Input should be a valid"):
            await service.jobs.result(invalid_job.id, timeout=15)
        valid_job = await service.jobs.enqueue("resize", {"path": "a", "width": 7}, queue=queue)
        assert await service.jobs.result(valid_job.id, timeout=15) == 7
    assert (await service.jobs.get(invalid_job.id)).attempt == 1


async def test_a_job_of_an_unknown_type_stays_pending(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("known")
    async def known() -> int:
        return 1

    unknown = await service.jobs.enqueue("unknown", queue=queue, priority=100)
    job = await service.jobs.enqueue("known", queue=queue)
    async with worker:
        assert await service.jobs.result(job.id, timeout=15) == 1
        without_worker = (await service.health()).job_types_without_worker
        assert [item.job_type for item in without_worker if item.queue == queue] == ["unknown"]
    assert (await service.jobs.get(unknown.id)).status is JobStatus.PENDING


async def test_an_error_is_retried_after_the_backoff_of_the_job_type(
    service, queue, new_worker, db
):
    worker = new_worker(poll_interval=0.05)

    @worker.handler("flaky", backoff=0.05, backoff_cap=0.1)
    async def flaky(job: JobContext) -> int:
        if job.attempt < 3:
            raise ValueError(f"not on attempt {job.attempt}")
        return job.attempt

    job = await service.jobs.enqueue("flaky", queue=queue, max_attempts=3)
    async with worker:
        assert await service.jobs.result(job.id, timeout=15) == 3
    rows = await db.fetch(
        "select error, detail from picture_queue.history "
        "where job_id = $1 and error is not null order by id",
        job.id,
    )
    assert [row["error"] for row in rows] == [
        "ValueError: not on attempt 1",
        "ValueError: not on attempt 2",
    ]
    assert "in flaky" in rows[0]["detail"]


async def test_the_policy_of_a_job_type_sets_the_retry_delay(
    service, queue, new_worker, wait_for_job, db
):
    worker = new_worker()

    @worker.handler("flaky", backoff=Backoff("constant", base=500, cap=900, jitter=0))
    async def flaky() -> None:
        raise ValueError("no")

    async with worker:
        job = await service.jobs.enqueue("flaky", queue=queue)
        waiting = await wait_for_job(job.id, lambda event: event.hold == "scheduled")
    delay = (waiting.scheduled_for - waiting.updated_at).total_seconds()
    assert delay == pytest.approx(500, abs=1)
    row = await db.fetchrow("select * from picture_queue.job_type where name = 'flaky'")
    assert (row["backoff_policy"], row["backoff_cap_seconds"]) == ("constant", 900)


async def test_the_last_attempt_fails_the_job(service, queue, new_worker, caplog):
    worker = new_worker()

    @worker.handler("broken", max_attempts=1)
    async def broken() -> None:
        raise ValueError("no")

    # The job is enqueued after the start, because the worker stores max_attempts when it starts.
    async with worker:
        job = await service.jobs.enqueue("broken", queue=queue)
        with pytest.raises(JobFailed, match="ValueError: no"):
            await service.jobs.result(job.id, timeout=15)
    assert f"Job {job.id} (broken) failed, attempt 1 of 1: ValueError: no" in caplog.text


async def test_a_permanent_failure_is_not_retried(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("hopeless")
    async def hopeless() -> None:
        raise PermanentFailure("The file is not a picture")

    job = await service.jobs.enqueue("hopeless", queue=queue, max_attempts=5)
    async with worker:
        with pytest.raises(JobFailed):
            await service.jobs.result(job.id, timeout=15)
    failed = await service.jobs.get(job.id)
    assert (failed.attempt, failed.error) == (1, "The file is not a picture")


@pytest.mark.parametrize("outcome", [Snooze(0.01), Park(0.01)], ids=["snooze", "park"])
async def test_a_snooze_or_park_uses_up_no_attempt(service, queue, new_worker, outcome):
    worker = new_worker(poll_interval=0.05)
    runs = 0

    @worker.handler("patient")
    async def patient(job: JobContext) -> int:
        nonlocal runs
        runs += 1
        if runs < 3:
            await job.progress(10 * runs, "waiting")
            return outcome  # type: ignore[return-value]
        return job.attempt

    job = await service.jobs.enqueue("patient", queue=queue, max_attempts=1)
    async with worker:
        assert await service.jobs.result(job.id, timeout=15) == 1
    assert runs == 3


async def test_a_parked_job_shows_its_last_progress(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("patient")
    async def patient(job: JobContext) -> Park:
        for percent in range(0, 60, 10):
            await job.progress(percent, f"{percent} %")
        return Park(3600)

    job = await service.jobs.enqueue("patient", queue=queue)
    async with worker:
        await worker._signals.reported.next()
    parked = await service.jobs.get(job.id)
    assert (parked.hold, parked.progress, parked.message) == ("parked", 50, "50 %")


async def test_a_handler_can_cancel_its_job(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("needless")
    async def needless() -> Cancel:
        return Cancel()

    job = await service.jobs.enqueue("needless", queue=queue)
    async with worker:
        with pytest.raises(JobCancelled):
            await service.jobs.result(job.id, timeout=15)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (object(), "The result cannot be stored"),
        ("a\x00b", "U\\+0000"),
        ("x" * 2_000_000, r"larger than the project allows \(setting max_result_bytes\)"),
        (10**400, "a number beyond 1e308"),
    ],
)
async def test_a_result_that_cannot_be_stored_fails_its_job(
    service, queue, new_worker, value, expected
):
    worker = new_worker()

    @worker.handler("odd")
    async def odd() -> Any:
        return value

    @worker.handler("fine")
    async def fine() -> int:
        return 1

    invalid_job = await service.jobs.enqueue("odd", queue=queue)
    valid_job = await service.jobs.enqueue("fine", queue=queue)
    async with worker:
        with pytest.raises(JobFailed, match=expected):
            await service.jobs.result(invalid_job.id, timeout=15)
        assert await service.jobs.result(valid_job.id, timeout=15) == 1
    assert (await service.jobs.get(invalid_job.id)).attempt == 1


async def test_no_more_jobs_run_at_once_than_there_are_slots(service, queue, new_worker):
    worker = new_worker(concurrency=4)
    running = peak = 0

    @worker.handler("count")
    async def count(payload: dict[str, int], job: JobContext) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await job.progress(0)  # Other handlers run during this call.
        running -= 1
        return payload["n"]

    jobs = await service.jobs.enqueue_many(
        {"job_type": "count", "queue": queue, "payload": {"n": n}} for n in range(60)
    )
    async with worker:
        for _ in jobs:
            await worker._signals.reported.next()
    completed = await service.jobs.list(queue=queue, status="completed")
    assert sorted(job.result for job in completed) == list(range(60))
    assert all(job.attempt == 1 for job in completed)
    assert peak == 4
