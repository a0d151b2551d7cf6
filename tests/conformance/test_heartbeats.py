"""Leases stay valid while handlers block the event loop or use all connections."""

import asyncio
import contextlib
import time
from contextlib import contextmanager

import psycopg
import pytest

from picture_queue import JobContext, JobStatus
from picture_queue.errors import Busy
from picture_queue.worker.slots import Slots

LEASE = 1.5  # The length of a lease, in seconds.
BLOCKED_TIME = 3 * LEASE  # How long a handler blocks, in seconds: longer than a lease.


@contextmanager
def open_sweeper(stack):
    """Yield a function that sweeps expired leases, as the maintenance of another worker does."""
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        yield lambda: connection.execute("select maintain_jobs(force => true)")


async def test_no_lease_is_lost_while_a_handler_blocks_the_event_loop(
    stack, service, queue, new_worker, caplog
):
    worker = new_worker(lease=LEASE)
    attempts: list[int] = []

    @worker.handler("blocks")
    async def blocks(job: JobContext) -> None:
        attempts.append(job.attempt)
        deadline = time.monotonic() + BLOCKED_TIME
        with open_sweeper(stack) as sweep:
            while time.monotonic() < deadline:
                sweep()
                time.sleep(0.1)  # noqa: ASYNC251

    @worker.handler("waits")
    async def waits(job: JobContext) -> None:
        attempts.append(job.attempt)
        await asyncio.sleep(0.1)

    waiting_job = await service.jobs.enqueue("waits", queue=queue)
    job = await service.jobs.enqueue("blocks", queue=queue)
    async with worker:
        for _ in range(2):
            await worker._signals.reported.next(timeout=40)
    for job_id in (job.id, waiting_job.id):
        assert (await service.jobs.get(job_id)).status is JobStatus.COMPLETED
    assert attempts == [1, 1]
    assert f"The handler of job {job.id} (blocks) has blocked the event loop for " in caplog.text
    # The message has a traceback, which names this file.
    assert "test_heartbeats.py" in caplog.text


async def test_jobs_claimed_ahead_run_once_although_the_event_loop_was_blocked(
    stack, service, queue, new_worker, monkeypatch, until
):
    """Let the worker hold five more claimed jobs while its only slot is blocked.

    A job whose lease was lost would run twice, or fail if it has a single attempt.
    """
    monkeypatch.setattr(Slots, "_target_ahead", lambda self: 5)
    worker = new_worker(lease=LEASE, concurrency=1, poll_interval=0.2)
    ran: list[tuple[int, int]] = []

    @worker.handler("blocks")
    async def blocks(payload: dict[str, int], job: JobContext) -> None:
        ran.append((payload["n"], job.attempt))
        if payload["n"] == 0:
            deadline = time.monotonic() + BLOCKED_TIME
            with open_sweeper(stack) as sweep:
                while time.monotonic() < deadline:
                    sweep()
                    time.sleep(0.1)  # noqa: ASYNC251

    jobs = await service.jobs.enqueue_many(
        {"job_type": "blocks", "payload": {"n": n}, "queue": queue, "max_attempts": 1 + n % 2}
        for n in range(6)
    )

    async def are_finished() -> bool:
        listed = await service.jobs.list(queue=queue)
        return len(listed) == len(jobs) and all(job.finished_at for job in listed)

    async with worker:
        await until(are_finished, timeout=40)
    assert sorted(ran) == [(n, 1) for n in range(6)]
    assert {(await service.jobs.get(job.id)).status for job in jobs} == {JobStatus.COMPLETED}


async def test_no_lease_is_lost_while_handlers_use_all_connections(
    stack, service, queue, new_worker, db
):
    """Let each handler make a call that waits for a row lock and so occupies a connection."""
    worker = new_worker(lease=LEASE, concurrency=5, poll_interval=0.2)
    locked = await service.jobs.enqueue("locked", queue=queue)
    attempts: list[int] = []
    started = asyncio.Semaphore(0)

    @worker.handler("waits")
    async def waits(job: JobContext) -> None:
        attempts.append(job.attempt)
        started.release()
        with contextlib.suppress(Busy):
            await service.jobs.cancel(locked.id)

    @worker.handler("fine")
    async def fine() -> None: ...

    jobs = [await service.jobs.enqueue("waits", queue=queue) for _ in range(4)]
    async with db.transaction():
        await db.execute("select from job_queue where id = $1 for update", locked.id)
        await worker.start()
        for _ in jobs:
            await asyncio.wait_for(started.acquire(), 15)
        with psycopg.connect(stack.db_url, autocommit=True) as sql:
            row = sql.execute("select enqueue_job('fine', queue => %s)", [queue]).fetchone()
        assert await worker._signals.reported.next() == (row[0], "ok")
        deadline = time.monotonic() + BLOCKED_TIME
        with open_sweeper(stack) as sweep:
            while time.monotonic() < deadline:
                await asyncio.to_thread(sweep)
                await asyncio.sleep(0.1)
    for _ in jobs:
        await worker._signals.reported.next(timeout=40)
    await worker.stop()
    assert attempts == [1, 1, 1, 1]
    for job in jobs:
        assert (await service.jobs.get(job.id)).status is JobStatus.COMPLETED


@pytest.mark.parametrize("event", ["cancel", "lost lease"])
async def test_a_blocking_handler_is_stopped_when_the_event_loop_runs_again(
    stack, service, queue, new_worker, db, event
):
    """Cancel the job, or end its lease, while the event loop is blocked."""
    worker = new_worker(lease=LEASE)
    continued = False

    @worker.handler("blocks")
    async def blocks(job: JobContext) -> None:
        nonlocal continued
        with psycopg.connect(stack.db_url, autocommit=True) as connection:
            if event == "cancel":
                connection.execute("select cancel_job(%s)", [job.id])
            else:
                connection.execute(
                    "update job_queue set lease_id = gen_random_uuid() where id = %s", [job.id]
                )
        time.sleep(LEASE)  # noqa: ASYNC251
        await asyncio.sleep(30)
        continued = True

    job = await service.jobs.enqueue("blocks", queue=queue)
    async with worker:
        # For a job whose lease is lost, there is no outcome.
        outcome = "cancelled" if event == "cancel" else None
        assert await worker._signals.outcome.next(timeout=40) == (job.id, outcome)
    assert not continued
