"""A handler is stopped early: by its timeout, a cancel, a lost lease, or the worker's stop."""

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
    """A handler that waits until `finish` is set, and sets `stopped` if it is cancelled."""

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

    async def wait_until_started(self) -> None:
        await asyncio.wait_for(self.started.wait(), 15)


@pytest.fixture
def waiting_handler():
    return WaitingHandler()


async def test_an_attempt_ends_at_its_timeout(service, queue, new_worker, waiting_handler):
    worker = new_worker()
    worker.handler("slow", timeout=0.1, max_attempts=1)(waiting_handler)
    async with worker:
        job = await service.jobs.enqueue("slow", queue=queue)
        with pytest.raises(JobFailed, match=r"TimeoutError: the job did not end within 0.1 s"):
            await service.jobs.result(job.id, timeout=15)
    assert waiting_handler.stopped.is_set()


async def test_the_timeout_of_a_job_overrides_that_of_its_type(
    service, queue, new_worker, waiting_handler
):
    worker = new_worker()
    worker.handler("slow", timeout=600)(waiting_handler)
    job = await service.jobs.enqueue("slow", queue=queue, timeout=0.2, max_attempts=1)
    async with worker:
        with pytest.raises(JobFailed, match=r"within 0.2 s"):
            await service.jobs.result(job.id, timeout=15)


async def test_the_job_of_a_thread_fails_at_its_timeout_but_the_thread_keeps_its_slot(
    service, queue, new_worker
):
    worker = new_worker(concurrency=2)
    may_end = threading.Event()

    @worker.handler("stuck", timeout=0.1, max_attempts=1)
    def stuck() -> None:
        may_end.wait(15)

    async with worker:
        job = await service.jobs.enqueue("stuck", queue=queue)
        with pytest.raises(JobFailed, match="TimeoutError"):
            await service.jobs.result(job.id, timeout=15)
        assert worker._supervisor._slots.free == 1
        may_end.set()


async def test_a_running_job_is_cancelled_without_waiting_for_a_heartbeat(
    service, queue, new_worker, waiting_handler
):
    # With this lease, the next heartbeat is further away than the timeout of the test.
    worker = new_worker(lease=3600)
    worker.handler("slow")(waiting_handler)
    async with worker:
        await worker._signals.listening.next()
        job = await service.jobs.enqueue("slow", queue=queue)
        await waiting_handler.wait_until_started()
        assert (await service.jobs.cancel(job.id)).cancel_requested
        with pytest.raises(JobCancelled):
            await service.jobs.result(job.id, timeout=10)
    assert waiting_handler.stopped.is_set()
    assert waiting_handler.context.cancel_requested


async def test_a_cancelled_thread_stops_when_it_next_reports_progress(service, queue, new_worker):
    worker = new_worker()
    loop = asyncio.get_running_loop()
    started, stopped = asyncio.Event(), asyncio.Event()
    may_continue = threading.Event()

    @worker.handler("slow")
    def slow(job: SyncJobContext) -> None:
        loop.call_soon_threadsafe(started.set)
        may_continue.wait(15)
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
        may_continue.set()
        await asyncio.wait_for(stopped.wait(), 15)


async def test_a_cancelled_parked_job_runs_again_for_cleanup(
    service, queue, new_worker, wait_for_job
):
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
        await wait_for_job(job.id, lambda event: event.hold == "parked")
        await service.jobs.cancel(job.id)
        await wait_for_job(job.id, lambda event: event.finished)
    assert cleaned_up == ["undone"]


async def test_running_jobs_are_released_when_the_worker_stops(
    service, queue, new_worker, waiting_handler
):
    worker = new_worker()
    worker.handler("slow")(waiting_handler)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waiting_handler.wait_until_started()
        name = worker.name
    assert waiting_handler.context.shutdown_requested
    assert not waiting_handler.context.cancel_requested
    released = await service.jobs.get(job.id)
    assert (released.status, released.hold, released.attempt) == (JobStatus.PENDING, None, 0)
    assert name not in [registered.worker for registered in (await service.health()).workers]


async def test_a_job_that_finishes_in_the_grace_period_is_completed(
    service, queue, new_worker, waiting_handler
):
    worker = new_worker(shutdown_grace=15)
    worker.handler("slow")(waiting_handler)
    job = await service.jobs.enqueue("slow", queue=queue)
    await worker.start()
    await waiting_handler.wait_until_started()
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)  # Let the stop begin before the handler ends.
    waiting_handler.finish.set()
    await stopping
    assert (await service.jobs.get(job.id)).result == "finished"


async def wait_for_heartbeat(worker):
    """Request a heartbeat and wait for its answer. The worker sends the next after 20 seconds."""
    (lease,) = worker._supervisor._slots.leases()
    await wait_until(lambda: lease.start_confirmed)
    requested_at = time.monotonic()
    worker._supervisor._heartbeat.beat_now()
    await wait_until(lambda: lease.renewed_at >= requested_at)


async def wait_until(condition):
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - no event tells when the condition becomes true
            await asyncio.sleep(0.001)


async def take_over(db, queue, job):
    """End the lease of a job and claim the job for another worker; return that worker's name.

    A single transaction does both, so that the first worker cannot claim the job in between.
    """
    other_worker = f"other-{uuid4()}"
    async with db.transaction():
        await db.execute(
            "update job_queue set lease_expires_at = now() - interval '1 second' where id = $1",
            job.id,
        )
        await db.execute("select maintain_jobs(force => true)")
        await db.execute(
            "select claim_jobs($1, array[$2], array['slow'], 1, 30)", other_worker, queue
        )
    return other_worker


async def test_a_handler_whose_lease_is_lost_is_stopped(
    service, queue, new_worker, waiting_handler, db, caplog
):
    worker = new_worker(lease=3600)
    worker.handler("slow")(waiting_handler)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waiting_handler.wait_until_started()
        # The worker sends a heartbeat when its subscription begins. Wait for that heartbeat, so
        # that the heartbeat below is the only one after the takeover.
        await worker._signals.listening.next()
        await wait_for_heartbeat(worker)
        other_worker = await take_over(db, queue, job)
        worker._supervisor._heartbeat.beat_now()
        assert await worker._signals.outcome.next() == (job.id, None)
    assert waiting_handler.stopped.is_set()
    assert "is lost and its handler stopped" in caplog.text
    current = await service.jobs.get(job.id)
    assert (current.status, current.worker) == (JobStatus.PROCESSING, other_worker)
    assert current.attempt == 2


async def test_an_outcome_under_a_lost_lease_changes_nothing(
    service, queue, new_worker, waiting_handler, db, caplog
):
    worker = new_worker(lease=3600)
    worker.handler("slow")(waiting_handler)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waiting_handler.wait_until_started()
        # The worker sends a heartbeat when its subscription begins. Wait for that heartbeat, so
        # that the report is the first call after the takeover.
        await worker._signals.listening.next()
        await wait_for_heartbeat(worker)
        other_worker = await take_over(db, queue, job)
        waiting_handler.finish.set()
        assert await worker._signals.reported.next() == (job.id, "stale")
    assert f"The outcome of job {job.id} (completed) was not recorded" in caplog.text
    current = await service.jobs.get(job.id)
    assert (current.status, current.result) == (JobStatus.PROCESSING, None)
    assert current.worker == other_worker


async def test_progress_under_a_lost_lease_stops_the_handler(
    service, queue, new_worker, waiting_handler, db
):
    worker = new_worker(lease=3600)
    may_continue = asyncio.Event()

    @worker.handler("slow")
    async def slow(job: JobContext) -> None:
        waiting_handler.started.set()
        await may_continue.wait()
        await job.progress(50)
        await asyncio.Event().wait()

    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waiting_handler.wait_until_started()
        await worker._signals.listening.next()
        await wait_for_heartbeat(worker)
        await take_over(db, queue, job)
        may_continue.set()
        assert await worker._signals.outcome.next() == (job.id, None)


async def test_a_lease_is_extended_for_as_long_as_its_handler_runs(
    service, queue, new_worker, waiting_handler, db
):
    worker = new_worker(lease=1)
    worker.handler("slow")(waiting_handler)
    job = await service.jobs.enqueue("slow", queue=queue)
    async with worker:
        await waiting_handler.wait_until_started()
        first_expiry = await db.fetchval(
            "select lease_expires_at from job_queue where id = $1", job.id
        )
        while await db.fetchval("select now() < $1::timestamptz", first_expiry):
            await worker._signals.heartbeat_answered.next()
        # Heartbeats have extended the lease, so the sweep must not end the lease.
        await service.maintain(force=True)
        claim = _rpc.Claim(f"other-{uuid4()}", (queue,), ("slow",), 1, 30.0, uuid4())
        assert await service._backend.call(_rpc.claim_jobs(claim)) == []
        waiting_handler.finish.set()
        assert await service.jobs.result(job.id, timeout=15) == "finished"
    assert (await service.jobs.get(job.id)).attempt == 1
