"""Early ends of a handler: its timeout, a cancel, a lost lease, and the stop of the worker."""

import asyncio
import threading
import time
from uuid import uuid4

import pytest

from picture_queue import (
    JobCancelled,
    JobContext,
    JobFailed,
    JobStatus,
    Park,
    _rpc,
)
from picture_queue.worker import SyncJobContext


class WaitingHandler:
    """A handler that waits without end, and records how it was stopped."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.finish = asyncio.Event()
        self.context: JobContext

    async def __call__(self, job: JobContext) -> str:
        self.context = job
        self.started.set()
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return "finished"

    async def running(self) -> None:
        await asyncio.wait_for(self.started.wait(), 15)


@pytest.fixture
def waits():
    return WaitingHandler()


async def test_an_attempt_ends_at_its_timeout(service, queue, new_worker, waits):
    worker = new_worker()
    worker.handler("slow", timeout=0.1, max_attempts=1)(waits)
    async with worker:
        job = await service.jobs.enqueue("slow", queue=queue)
        with pytest.raises(JobFailed, match=r"TimeoutError: the job did not end within 0.1 s"):
            await service.jobs.result(job.id, timeout=15)
    assert waits.stopped.is_set()


async def test_the_timeout_of_a_job_overrides_that_of_its_type(service, queue, new_worker, waits):
    worker = new_worker()
    worker.handler("slow", timeout=600)(waits)
    job = await service.jobs.enqueue("slow", queue=queue, timeout=0.2, max_attempts=1)
    async with worker:
        with pytest.raises(JobFailed, match=r"within 0.2 s"):
            await service.jobs.result(job.id, timeout=15)


async def test_a_thread_is_given_up_at_its_timeout_but_occupies_its_slot(
    service, queue, new_worker
):
    worker = new_worker(concurrency=2)
    until = threading.Event()

    @worker.handler("stuck", timeout=0.1, max_attempts=1)
    def stuck() -> None:
        until.wait(15)

    async with worker:
        job = await service.jobs.enqueue("stuck", queue=queue)
        with pytest.raises(JobFailed, match="TimeoutError"):
            await service.jobs.result(job.id, timeout=15)
        assert worker._supervisor._slots.free == 1
        until.set()


async def test_a_running_job_is_cancelled_without_waiting_for_a_heartbeat(
    service, queue, new_worker, waits
):
    worker = new_worker(lease=3600)
    worker.handler("slow")(waits)
    async with worker:
        await worker._signals.listening.next()
        job = await service.jobs.enqueue("slow", queue=queue)
        await waits.running()
        assert (await service.jobs.cancel(job.id)).cancel_requested
        with pytest.raises(JobCancelled):
            await service.jobs.result(job.id, timeout=10)
    assert waits.stopped.is_set()
    assert waits.context.cancel_requested


async def test_a_cancelled_thread_stops_at_its_next_report(service, queue, new_worker):
    worker = new_worker()
    loop = asyncio.get_running_loop()
    started, stopped = asyncio.Event(), asyncio.Event()
    go = threading.Event()

    @worker.handler("slow")
    def slow(job: SyncJobContext) -> None:
        loop.call_soon_threadsafe(started.set)
        go.wait(15)
        try:
            job.progress(50)
        except asyncio.CancelledError:
            loop.call_soon_threadsafe(stopped.set)
            raise

    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await asyncio.wait_for(started.wait(), 15)
        await service.jobs.cancel(job.id)
        with pytest.raises(JobCancelled):
            await service.jobs.result(job.id, timeout=15)
        go.set()
        await asyncio.wait_for(stopped.wait(), 15)


async def test_a_cancelled_parked_job_runs_again_for_cleanup(service, queue, new_worker, reached):
    worker = new_worker(poll_interval=0.05)
    cleaned_up: list[str] = []

    @worker.handler("parks")
    async def parks(job: JobContext) -> Park | None:
        if job.cancel_requested:
            cleaned_up.append("undone")
            return None
        return Park(3600)

    job = await service.jobs.enqueue("parks", queue=queue)
    async with worker:
        await reached(job.id, lambda event: event.hold == "parked")
        await service.jobs.cancel(job.id)
        await reached(job.id, lambda event: event.finished)
    assert cleaned_up == ["undone"]


async def test_running_jobs_are_released_when_the_worker_stops(service, queue, new_worker, waits):
    worker = new_worker()
    worker.handler("slow")(waits)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waits.running()
        name = worker.name
    assert waits.context.shutdown_requested
    assert not waits.context.cancel_requested
    released = await service.jobs.get(job.id)
    assert (released.status, released.hold, released.attempt) == (JobStatus.PENDING, None, 0)
    assert name not in [seen.worker for seen in (await service.health()).workers]


async def test_a_job_that_finishes_in_the_grace_period_is_completed(
    service, queue, new_worker, waits
):
    worker = new_worker(shutdown_grace=15)
    worker.handler("slow")(waits)
    job = await service.jobs.enqueue("slow", queue=queue)
    await worker.start()
    await waits.running()
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    waits.finish.set()
    await stopping
    assert (await service.jobs.get(job.id)).result == "finished"


async def no_heartbeat_in_progress(worker):
    """Wait until no heartbeat is in progress. The next one comes in 20 seconds."""
    (lease,) = worker._supervisor._slots.leases()
    await until(lambda: lease.start_confirmed)
    asked_at = time.monotonic()
    worker._supervisor._heartbeat.beat_now()
    await until(lambda: lease.confirmed_at >= asked_at)


async def until(condition):
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.001)


async def take_over(db, queue, job):
    """End a job's lease and give the job to another worker, before a heartbeat can extend it."""
    other = f"other-{uuid4()}"
    async with db.transaction():
        await db.execute(
            "update job_queue set lease_expires_at = now() - interval '1 second' where id = $1",
            job.id,
        )
        await db.execute("select maintain_jobs(force => true)")
        await db.execute("select claim_jobs($1, array[$2], array['slow'], 1, 30)", other, queue)
    return other


async def test_a_handler_whose_lease_is_lost_is_stopped(
    service, queue, new_worker, waits, db, caplog
):
    worker = new_worker(lease=3600)
    worker.handler("slow")(waits)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waits.running()
        # The heartbeat after the join would extend the lease in lease_extension.
        await worker._signals.listening.next()
        await no_heartbeat_in_progress(worker)
        other = await take_over(db, queue, job)
        worker._supervisor._heartbeat.beat_now()
        assert await worker._signals.outcome.next() == (job.id, None)
    assert waits.stopped.is_set()
    assert "is lost and its handler stopped" in caplog.text
    held = await service.jobs.get(job.id)
    assert (held.status, held.worker, held.attempt) == (JobStatus.PROCESSING, other, 2)


async def test_an_outcome_under_a_lost_lease_changes_nothing(
    service, queue, new_worker, waits, db, caplog
):
    worker = new_worker(lease=3600)
    worker.handler("slow")(waits)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waits.running()
        # The heartbeat after the join would find the lost lease.
        await worker._signals.listening.next()
        await no_heartbeat_in_progress(worker)
        other = await take_over(db, queue, job)
        waits.finish.set()
        assert await worker._signals.reported.next() == (job.id, "stale")
    assert f"The work on job {job.id} was not recorded" in caplog.text
    held = await service.jobs.get(job.id)
    assert (held.status, held.result, held.worker) == (JobStatus.PROCESSING, None, other)


async def test_progress_under_a_lost_lease_stops_the_handler(service, queue, new_worker, waits, db):
    worker = new_worker(lease=3600)
    go = asyncio.Event()

    @worker.handler("slow")
    async def slow(job: JobContext) -> None:
        waits.started.set()
        await go.wait()
        await job.progress(50)
        await asyncio.Event().wait()

    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waits.running()
        await worker._signals.listening.next()
        await no_heartbeat_in_progress(worker)
        await take_over(db, queue, job)
        go.set()
        assert await worker._signals.outcome.next() == (job.id, None)


async def test_a_lease_is_kept_for_as_long_as_its_handler_runs(
    service, queue, new_worker, waits, db
):
    worker = new_worker(lease=1)
    worker.handler("slow")(waits)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waits.running()
        granted = await db.fetchval("select lease_expires_at from job_queue where id = $1", job.id)
        while await db.fetchval("select now() < $1::timestamptz", granted):
            await worker._signals.heartbeat_answered.next()
        # This lease was extended beyond its first end, so it is not swept.
        await service.maintain(force=True)
        other = _rpc.Claim(f"other-{uuid4()}", (queue,), ("slow",), 1, 30.0, uuid4())
        assert await service._backend.call(_rpc.claim_jobs(other)) == []
        waits.finish.set()
        assert await service.jobs.result(job.id, timeout=15) == "finished"
    assert (await service.jobs.get(job.id)).attempt == 1
