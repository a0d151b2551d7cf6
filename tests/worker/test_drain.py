"""A drain: a run that ends when no job is due, after a number of jobs, or after a time."""

import asyncio
from typing import Any

import pytest

from picture_queue import InvalidArgument, JobContext, JobStatus, NewJob
from picture_queue.worker import DrainResult


async def test_a_drain_runs_the_jobs_that_are_due_and_returns(service, queue, new_worker, db):
    worker = new_worker()

    @worker.handler("succeeds")
    async def succeeds() -> None: ...

    @worker.handler("fails", backoff=3600)
    async def fails() -> None:
        raise ValueError("no")

    done = await service.jobs.enqueue("succeeds", queue=queue)
    failed = await service.jobs.enqueue("fails", queue=queue)
    later = await service.jobs.enqueue("succeeds", queue=queue, delay=3600)
    overdue = await service.jobs.enqueue("succeeds", queue=queue, delay=3600)
    await db.execute(
        "update job_queue set scheduled_for = now() - interval '1 s' where id = $1", overdue.id
    )
    assert await worker.drain(time_limit=30) == DrainResult(processed=2, errors=1)
    jobs = [await service.jobs.get(job.id) for job in (done, overdue, failed, later)]
    assert [(job.status, job.attempt) for job in jobs] == [
        (JobStatus.COMPLETED, 1),
        (JobStatus.COMPLETED, 1),
        (JobStatus.PENDING, 1),
        (JobStatus.PENDING, 0),
    ]
    assert await worker.drain(time_limit=30) == DrainResult()


async def test_a_drain_runs_jobs_that_become_due_meanwhile(service, queue, new_worker):
    worker = new_worker()
    order: list[str] = []

    @worker.handler("step")
    async def step(payload: dict[str, Any]) -> None:
        order.append(payload["name"])

    first = await service.jobs.enqueue("step", {"name": "first"}, queue=queue)
    await service.jobs.enqueue("step", {"name": "second"}, queue=queue, depends_on=[first.id])
    assert await worker.drain(time_limit=30) == DrainResult(processed=2)
    assert order == ["first", "second"]


async def test_a_drain_runs_no_more_than_max_jobs(service, queue, new_worker):
    worker = new_worker(max_jobs=5)
    worker.handler("resize")(lambda: None)
    new_jobs = [NewJob(job_type="resize", queue=queue) for _ in range(10)]
    jobs = await service.jobs.enqueue_many(new_jobs)
    assert await worker.drain(max_jobs=3, time_limit=30) == DrainResult(processed=3)
    assert await worker.drain(time_limit=30) == DrainResult(processed=5)
    states = [await service.jobs.get(job.id) for job in jobs]
    left = [job for job in states if job.status is JobStatus.PENDING]
    assert [job.attempt for job in left] == [0, 0]


async def test_a_drain_releases_unfinished_jobs_at_its_time_limit(service, queue, new_worker):
    worker = new_worker(concurrency=1)
    started = 0

    @worker.handler("hangs")
    async def hangs() -> None:
        nonlocal started
        started += 1
        await asyncio.Event().wait()

    jobs = [await service.jobs.enqueue("hangs", queue=queue) for _ in range(3)]
    assert await worker.drain(time_limit=1) == DrainResult()
    assert started == 1
    states = [await service.jobs.get(job.id) for job in jobs]
    assert {(job.status, job.attempt) for job in states} == {(JobStatus.PENDING, 0)}


async def test_a_stop_ends_a_drain(service, queue, new_worker):
    worker = new_worker(shutdown_grace=20)

    @worker.handler("stops")
    async def stops(payload: dict[str, Any], job: JobContext) -> None:
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, worker.stop())
        while not job.shutdown_requested:  # noqa: ASYNC110 - a handler polls this attribute
            await asyncio.sleep(0.01)

    await service.jobs.enqueue("stops", queue=queue)
    assert await asyncio.wait_for(worker.drain(), 20) == DrainResult(processed=1)


async def test_a_running_worker_cannot_be_drained(new_worker):
    worker = new_worker()
    worker.handler("resize")(lambda: None)
    async with worker:
        with pytest.raises(InvalidArgument, match="running already"):
            await worker.drain()
    with pytest.raises(InvalidArgument, match="time_limit is 0"):
        await worker.drain(time_limit=0)


async def test_a_worker_stops_after_max_jobs(service, queue, new_worker):
    worker = new_worker(max_jobs=2, poll_interval=0.05)
    worker.handler("resize")(lambda: None)
    running = asyncio.create_task(worker.run())
    jobs = [await service.jobs.enqueue("resize", queue=queue) for _ in range(3)]
    await asyncio.wait_for(running, 20)
    states = [(await service.jobs.get(job.id)).status for job in jobs]
    assert states == [JobStatus.COMPLETED, JobStatus.COMPLETED, JobStatus.PENDING]
