"""Log lines that handlers write for their jobs."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from picture_queue import JobContext, JobFailed, Park
from picture_queue.worker import SyncJobContext, executor


@pytest.fixture
def read_log(db):
    """Return a function that reads the stored log lines of a job."""

    async def read_lines(job_id: UUID) -> list[dict[str, Any]]:
        history = json.loads(await db.fetchval("select get_job_history($1)", job_id))
        lines: list[dict[str, Any]] = history["log"]
        return lines

    return read_lines


async def test_lines_are_stored_before_the_outcome_is_reported(
    service, queue, new_worker, read_log
):
    worker = new_worker()

    @worker.handler("logs")
    async def logs(job: JobContext) -> None:
        job.log("begun")
        job.log("odd \x00", level="warning")
        if job.attempt == 1:
            raise ValueError("no")

    job = await service.jobs.enqueue("logs", queue=queue, max_attempts=1)
    async with worker:
        with pytest.raises(JobFailed):
            await service.jobs.result(job.id, timeout=15)
        lines = await read_log(job.id)
    assert [(line["attempt"], line["level"], line["message"]) for line in lines] == [
        (1, "info", "begun"),
        (1, "warning", "odd \ufffd"),
    ]


async def test_lines_are_stored_while_the_handler_runs(
    service, queue, new_worker, read_log, until, monkeypatch
):
    monkeypatch.setattr(executor, "LOG_INTERVAL", 0.01)
    worker = new_worker()
    log_was_read = asyncio.Event()

    @worker.handler("logs")
    async def logs(job: JobContext) -> None:
        job.log("waiting")
        await log_was_read.wait()

    job = await service.jobs.enqueue("logs", queue=queue)
    async with worker:
        await until(lambda: read_log(job.id))
        log_was_read.set()
        await service.jobs.result(job.id, timeout=15)


async def test_the_newest_200_lines_are_kept(service, queue, new_worker, read_log):
    worker = new_worker()

    @worker.handler("logs")
    def logs(job: SyncJobContext) -> None:
        for n in range(1000):
            job.log(f"line {n}", "debug")

    job = await service.jobs.enqueue("logs", queue=queue)
    async with worker:
        await service.jobs.result(job.id, timeout=15)
    assert [line["message"] for line in await read_log(job.id)] == [
        f"line {n}" for n in range(800, 1000)
    ]


async def test_lines_of_a_stopped_handler_are_kept(service, queue, new_worker, read_log):
    worker = new_worker()

    @worker.handler("logs", timeout=0.05, max_attempts=1)
    async def logs(job: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            job.log("cleaned up")

    async with worker:
        job = await service.jobs.enqueue("logs", queue=queue)
        with pytest.raises(JobFailed, match="TimeoutError"):
            await service.jobs.result(job.id, timeout=15)
    assert [line["message"] for line in await read_log(job.id)] == ["cleaned up"]


async def test_a_log_that_cannot_be_written_does_not_affect_the_job(
    service, queue, new_worker, read_log, faults
):
    worker = new_worker()

    @worker.handler("logs")
    async def logs(job: JobContext) -> int:
        job.log("lost")
        return 1

    await faults(answer_503=50, path="/rest/v1/rpc/log_job")
    job = await service.jobs.enqueue("logs", queue=queue)
    async with worker:
        assert await service.jobs.result(job.id, timeout=30) == 1
    assert await read_log(job.id) == []


async def test_a_handler_that_logs_under_a_lost_lease_is_stopped(
    service, queue, new_worker, db, read_log, monkeypatch
):
    monkeypatch.setattr(executor, "LOG_INTERVAL", 0.0)
    worker = new_worker(lease=3600)
    started, may_log = asyncio.Event(), asyncio.Event()

    @worker.handler("logs")
    async def logs(job: JobContext) -> None:
        started.set()
        await may_log.wait()
        job.log("too late")
        await asyncio.Event().wait()

    job = await service.jobs.enqueue("logs", queue=queue)
    async with worker:
        await asyncio.wait_for(started.wait(), 15)
        await db.execute("update job_queue set lease_id = gen_random_uuid() where id = $1", job.id)
        may_log.set()
        assert await worker._signals.outcome.next() == (job.id, None)
    assert await read_log(job.id) == []


async def test_lines_of_an_attempt_that_parks_its_job_are_kept(
    service, queue, new_worker, read_log
):
    worker = new_worker()

    @worker.handler("logs")
    async def logs(job: JobContext) -> Park:
        job.log("parking")
        return Park(3600)

    job = await service.jobs.enqueue("logs", queue=queue)
    async with worker:
        assert await worker._signals.reported.next() == (job.id, "ok")
    assert [line["message"] for line in await read_log(job.id)] == ["parking"]
