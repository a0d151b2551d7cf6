"""Workers complete their jobs despite lost responses, outages, a cut socket and kills."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from picture_queue import AsyncPictureQueue, JobContext, JobStatus, Worker
from picture_queue.errors import NotAllowed, NotAuthenticated

APP = Path(__file__).with_name("app.py")


async def test_a_report_whose_response_is_lost_counts_once(service, queue, new_worker, faults, db):
    worker = new_worker()
    runs = 0

    @worker.handler("once")
    async def once() -> str:
        nonlocal runs
        runs += 1
        await faults(cut_after_commit=1, path="/rest/v1/rpc/report_jobs")
        return "done"

    job = await service.jobs.enqueue("once", queue=queue)
    async with worker:
        assert await worker._signals.reported.next() == (job.id, "repeated")
    finished = await service.jobs.get(job.id)
    assert (finished.status, finished.result, finished.attempt, runs) == (
        JobStatus.COMPLETED,
        "done",
        1,
        1,
    )
    # Creation, claim and completion each increase the version. The repeated report does not.
    assert finished.version == 3


async def test_a_claim_whose_response_is_lost_is_retried_with_the_same_jobs(
    service, queue, new_worker, faults
):
    worker = new_worker(concurrency=3)
    ran: list[tuple[int, int]] = []

    @worker.handler("count")
    async def count(payload: dict[str, int], job: JobContext) -> None:
        ran.append((payload["n"], job.attempt))

    await service.jobs.enqueue_many(
        {"job_type": "count", "queue": queue, "payload": {"n": n}} for n in range(3)
    )
    # Five lost responses exceed the retries of one call, so the claimer itself repeats its request.
    await faults(cut_after_commit=5, path="/rest/v1/rpc/claim_jobs")
    async with worker:
        for _ in range(3):
            await worker._signals.reported.next()
    assert sorted(ran) == [(0, 1), (1, 1), (2, 1)]


async def test_lost_responses_to_reports_lose_no_jobs(service, queue, new_worker, faults):
    worker = new_worker(concurrency=1)
    ran: list[int] = []

    @worker.handler("count")
    async def count(payload: dict[str, int]) -> None:
        ran.append(payload["n"])
        if payload["n"] == 0:
            await faults(cut_after_commit=5, path="/rest/v1/rpc/report_jobs")

    await service.jobs.enqueue_many(
        {"job_type": "count", "queue": queue, "payload": {"n": n}} for n in range(4)
    )
    async with worker:
        for _ in range(4):
            await worker._signals.reported.next()
    assert ran == [0, 1, 2, 3]
    completed = await service.jobs.list(queue=queue, status="completed")
    assert [job.attempt for job in completed] == [1, 1, 1, 1]


async def test_a_worker_survives_an_outage_and_logs_it_once(
    service, queue, new_worker, faults, caplog
):
    worker = new_worker(poll_interval=0.05)

    @worker.handler("fine")
    async def fine() -> int:
        return 1

    caplog.set_level("INFO", "picture_queue")
    async with worker:
        await worker._signals.idle.next()
        await faults(answer_503=6, path="/rest/v1/rpc/claim_jobs")
        job = await service.jobs.enqueue("fine", queue=queue)
        assert await service.jobs.result(job.id, timeout=30) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert len([text for text in messages if "calls fail and are repeated" in text]) == 1
    assert len([text for text in messages if "calls succeed again" in text]) == 1


async def test_a_worker_polls_while_its_socket_is_cut(service, queue, new_worker, faults):
    worker = new_worker(poll_interval=0.1)

    @worker.handler("fine")
    async def fine() -> int:
        return 1

    async with worker:
        await worker._signals.listening.next()
        await faults(network_cut=True)
        job = await service.jobs.enqueue("fine", queue=queue)
        assert (await worker._signals.reported.next()) == (job.id, "ok")
        await faults(network_cut=False)
        await worker._signals.listening.next(timeout=20)


async def test_a_wake_up_starts_a_job_before_the_next_poll(service, queue, new_worker):
    worker = new_worker(poll_interval=60)

    @worker.handler("fine")
    async def fine() -> int:
        return 1

    async with worker:
        await worker._signals.listening.next()
        # A claim that the worker makes at its start may return the first job, but not the others.
        for _ in range(3):
            job = await service.jobs.enqueue("fine", queue=queue)
            assert await service.jobs.result(job.id, timeout=15) == 1


async def test_a_worker_with_an_anonymous_key_is_refused(stack):
    async with AsyncPictureQueue(stack.api_url, stack.anon_key) as pq:
        with pytest.raises((NotAllowed, NotAuthenticated)):
            await Worker(pq).run()


# --- Workers in separate processes ---


@asynccontextmanager
async def run_worker(
    stack: Any, queue: str, lease: float = 1
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker in a separate process."""
    env = {**os.environ, "SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(APP), queue, str(lease), env=env, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


async def wait_until_confirmed(db, job_id):
    """Wait until the worker has confirmed the start of the job."""
    async with asyncio.timeout(20):
        while await db.fetchval(  # noqa: ASYNC110 - the database sends no event for a confirmation
            "select unconfirmed_claims > 0 from job_queue where id = $1", job_id
        ):
            await asyncio.sleep(0.01)


async def test_another_worker_runs_the_job_of_a_killed_worker(
    stack, service, queue, wait_for_job, db
):
    job = await service.jobs.enqueue("slow", queue=queue)
    async with run_worker(stack, queue) as first, run_worker(stack, queue) as second:
        lines = {asyncio.create_task(read_line(process)): process for process in (first, second)}
        read, _ = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED)
        (first_line,) = read
        assert first_line.result() == "started 1"
        killed = lines.pop(first_line)
        ((next_line, survivor),) = lines.items()
        await wait_until_confirmed(db, job.id)
        killed.send_signal(signal.SIGKILL)
        assert await next_line == "started 2"
        survivor.terminate()
        assert await read_line(survivor) == "stopping"
        assert await asyncio.wait_for(survivor.wait(), 15) == 0
    finished = await wait_for_job(job.id, lambda event: event.finished)
    assert (finished.result, finished.attempt) == ("finished early", 2)
    assert "lease ended" in await db.fetchval(
        "select error from picture_queue.history where job_id = $1 and action = 'expire'", job.id
    )


async def test_a_second_signal_releases_the_job_at_once(stack, service, queue):
    job = await service.jobs.enqueue("slow", {"ignore_shutdown": True}, queue=queue)
    async with run_worker(stack, queue, lease=30) as process:
        assert await read_line(process) == "started 1"
        process.terminate()
        assert await read_line(process) == "stopping"
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0
    released = await service.jobs.get(job.id)
    assert (released.status, released.attempt) == (JobStatus.PENDING, 0)
