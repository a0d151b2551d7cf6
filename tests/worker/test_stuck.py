"""Handlers that never end: their slots, their leases, and the restart of the worker."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from picture_queue import JobCancelled, JobFailed, JobStatus
from picture_queue.errors import WorkerStuck

HERE = Path(__file__).parent


class HangingHandler:
    """A sync handler that ignores its timeout until the test ends."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = 0

    def __call__(self) -> None:
        self.running += 1
        self.release.wait(30)


@pytest.fixture
def hanging_handler() -> Iterator[HangingHandler]:
    handler = HangingHandler()
    yield handler
    handler.release.set()


async def test_a_worker_with_stuck_slots_ends_so_that_it_can_be_restarted(
    service, queue, new_worker, hanging_handler, until, caplog
):
    worker = new_worker(concurrency=4, poll_interval=0.05, stuck_after=0.05, shutdown_grace=15)
    may_finish = asyncio.Event()
    started = asyncio.Event()

    @worker.handler("slow")
    async def slow() -> str:
        started.set()
        await may_finish.wait()
        return "finished"

    worker.handler("stuck", timeout=0.1, max_attempts=1)(hanging_handler)
    running = asyncio.create_task(worker.run())
    slow_job = await service.jobs.enqueue("slow", queue=queue)
    await asyncio.wait_for(started.wait(), 15)
    first = await service.jobs.enqueue("stuck", queue=queue)
    with pytest.raises(JobFailed, match="TimeoutError"):
        await service.jobs.result(first.id, timeout=15)
    assert not worker.recycle, "the worker restarts although less than half of its slots are stuck"
    second = await service.jobs.enqueue("stuck", queue=queue)
    with pytest.raises(JobFailed, match="TimeoutError"):
        await service.jobs.result(second.id, timeout=15)
    await until(lambda: worker.recycle)
    # The worker drains: running jobs continue, and no new jobs are claimed.
    unclaimed = await service.jobs.enqueue("slow", queue=queue)
    may_finish.set()
    with pytest.raises(WorkerStuck, match="hold half of the worker's slots"):
        await asyncio.wait_for(running, 15)
    assert (await service.jobs.get(slow_job.id)).result == "finished"
    assert (await service.jobs.get(unclaimed.id)).attempt == 0
    for job, stuck_slots in ((first, 1), (second, 2)):
        assert f"The handler of job {job.id} (stuck) still runs" in caplog.text
        assert f"stuck handlers hold {stuck_slots} of 4 slots" in caplog.text
    assert hanging_handler.running == 2


async def test_a_handler_that_ended_late_is_no_longer_counted(
    service, queue, new_worker, until, caplog
):
    worker = new_worker(concurrency=3, poll_interval=0.05, stuck_after=0.0)
    handlers = [HangingHandler(), HangingHandler()]
    for number, handler in enumerate(handlers):
        worker.handler(f"stuck-{number}", timeout=0.1, max_attempts=1)(handler)
    try:
        async with worker:
            for number, handler in enumerate(handlers):
                await service.jobs.enqueue(f"stuck-{number}", queue=queue)
                await until(lambda: f"(stuck-{number}) still runs" in caplog.text)  # noqa: B023
                assert "2 of 3" not in caplog.text
                handler.release.set()
                await until(lambda: not worker._supervisor._slots.attempts)
            assert not worker.recycle
    finally:
        for handler in handlers:
            handler.release.set()


async def test_a_handler_that_ends_late_frees_its_slot(service, queue, new_worker, hanging_handler):
    worker = new_worker(concurrency=1, stuck_after=3600)
    worker.handler("stuck", timeout=0.1, max_attempts=1)(hanging_handler)

    @worker.handler("fine")
    async def fine() -> int:
        return 1

    async with worker:
        stuck = await service.jobs.enqueue("stuck", queue=queue)
        with pytest.raises(JobFailed):
            await service.jobs.result(stuck.id, timeout=15)
        job = await service.jobs.enqueue("fine", queue=queue)
        hanging_handler.release.set()
        assert await service.jobs.result(job.id, timeout=15) == 1
        assert not worker.recycle


async def test_a_signal_during_a_restart_ends_the_worker_without_a_restart(
    service, queue, new_worker, hanging_handler, until
):
    worker = new_worker(concurrency=2, stuck_after=0.0, shutdown_grace=15)
    may_finish, started = asyncio.Event(), asyncio.Event()

    @worker.handler("slow")
    async def slow() -> None:
        started.set()
        await may_finish.wait()

    worker.handler("stuck", timeout=0.1, max_attempts=1)(hanging_handler)
    running = asyncio.create_task(worker.run())
    slow_job = await service.jobs.enqueue("slow", queue=queue)
    await asyncio.wait_for(started.wait(), 15)
    await service.jobs.enqueue("stuck", queue=queue)
    await until(lambda: worker.recycle)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: not worker.recycle)
    may_finish.set()
    await asyncio.wait_for(running, 15)
    assert (await service.jobs.get(slow_job.id)).status is JobStatus.COMPLETED


async def test_the_program_restarts_a_stuck_worker_in_the_same_process(stack, service, queue):
    env = {**os.environ, "SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    job = await service.jobs.enqueue("hangs", queue=queue, max_attempts=2)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "picture_queue_cli", "worker"),
        *("--app", "stuck_app:worker", "--queue", f"{queue}=2"),
        cwd=HERE,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        result = await service.jobs.result(job.id, timeout=40)
        assert result == process.pid
        assert (await service.jobs.get(job.id)).attempt == 2
    finally:
        process.terminate()
        stdout, stderr = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0
    assert stdout.decode().split("\n")[:2] == [
        f"started {attempt} {process.pid}" for attempt in (1, 2)
    ]
    assert "hold half of the worker's slots" in stderr.decode()


# --- The database ends jobs that a worker does not stop ---


@pytest.fixture
async def set_grace_periods(db) -> Any:
    """Return a function that sets the grace periods of the project; the test's end resets them.

    After the grace period, the database ends a job that its worker did not stop.
    """

    async def set_seconds(**seconds: float) -> None:
        for name, value in seconds.items():
            await db.execute(f"update picture_queue.setting set {name}_grace_seconds = $1", value)

    previous = await db.fetchrow("select * from picture_queue.setting")
    yield set_seconds
    await set_seconds(
        cancel=previous["cancel_grace_seconds"], timeout=previous["timeout_grace_seconds"]
    )


@pytest.mark.parametrize("limit", ["cancel", "timeout"])
async def test_the_database_ends_a_job_that_its_worker_does_not_stop(
    service, queue, new_worker, set_grace_periods, db, limit
):
    """The lease ends with the grace period, and the next claim sweeps the lease."""
    await set_grace_periods(**{limit: 0.0})
    worker = new_worker(lease=3600, poll_interval=0.05)
    started, may_return = asyncio.Event(), asyncio.Event()

    @worker.handler("ignores-cancellation")
    async def ignore_cancellation() -> None:
        while not may_return.is_set():
            try:
                started.set()
                await may_return.wait()
            except asyncio.CancelledError:
                continue

    job = await service.jobs.enqueue("ignores-cancellation", queue=queue, max_attempts=1)
    async with worker:
        await asyncio.wait_for(started.wait(), 15)
        if limit == "cancel":
            await service.jobs.cancel(job.id)
        else:  # Simulate a worker that does not notice the timeout.
            await db.execute("update job_queue set timeout_seconds = 0.001 where id = $1", job.id)
        worker._supervisor._heartbeat.beat_now()
        with pytest.raises(JobCancelled if limit == "cancel" else JobFailed):
            await service.jobs.result(job.id, timeout=15)
        assert not may_return.is_set(), "the handler must still run"
        assert worker._supervisor._slots.leases() == []
        may_return.set()
