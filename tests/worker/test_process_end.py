"""The process of a worker ends when the worker stops, even if handlers never end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from picture_queue import AsyncPictureQueue, JobStatus

APP = Path(__file__).with_name("exit_app.py")


@pytest.fixture(params=["http", "direct"])
def project(request: pytest.FixtureRequest, stack: Any) -> dict[str, str]:
    """The environment variables that name the project."""
    if request.param == "http":
        return {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    return {"PICTURE_QUEUE_DATABASE_URL": stack.db_url}


@pytest.fixture
async def run_app(project, queue) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that runs exit_app.py as a process, with arguments after the queue."""
    processes: list[asyncio.subprocess.Process] = []

    async def run(*args: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, APP, queue, *args),
            env={"PATH": os.environ["PATH"], **project},
            stdout=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    return line.decode().strip()


@pytest.mark.parametrize(
    ("project", "misbehaviour", "signals"),
    [
        ("http", "thread", 1),
        ("direct", "shielded thread", 1),
        ("http", "sync", 1),
        ("direct", "leaves a task", 1),
        ("http", "ignores cancellation", 2),
        ("direct", "ignores cancellation and close", 2),
        ("http", "child task", 2),
    ],
    indirect=["project"],
)
async def test_a_process_ends_even_if_a_handler_never_ends(
    service: AsyncPictureQueue,
    queue: str,
    run_app: Callable[..., Any],
    misbehaviour: str,
    signals: int,
) -> None:
    job_type = "hangs-in-thread" if misbehaviour == "sync" else "hangs"
    job = await service.jobs.enqueue(job_type, queue=queue)
    process = await run_app(misbehaviour)
    assert await read_line(process) == "started"
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)  # Two signals at once would be delivered as one.
    assert await read_line(process) == "stopped"
    assert await asyncio.wait_for(process.wait(), 15) == 0
    released = await service.jobs.get(job.id)
    assert (released.status, released.attempt) == (JobStatus.PENDING, 0)


async def test_a_handler_that_cancels_all_tasks_stops_its_worker_with_an_error(
    service: AsyncPictureQueue, queue: str, run_app: Callable[..., Any]
) -> None:
    job = await service.jobs.enqueue("hangs", queue=queue, max_attempts=1)
    process = await run_app("cancels all tasks")
    assert await read_line(process) == "started"
    assert "Other code cancelled the " in await read_line(process)
    assert await asyncio.wait_for(process.wait(), 15) == 0
    failed = await service.jobs.get(job.id)
    assert (failed.status, failed.attempt) == (JobStatus.FAILED, 1), "the failure is not reported"
    workers = (await service.health()).workers
    assert queue not in [name for worker in workers for name in worker.queues]


async def test_two_workers_of_a_process_stop_together(
    service: AsyncPictureQueue, queue: str, run_app: Callable[..., Any]
) -> None:
    process = await run_app("two workers")
    await service.jobs.enqueue("other", queue=queue)
    assert await read_line(process) == "other"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 15) == 0
    workers = (await service.health()).workers
    assert queue not in [name for worker in workers for name in worker.queues]


async def test_a_worker_can_run_twice_in_a_process(
    service: AsyncPictureQueue, queue: str, run_app: Callable[..., Any]
) -> None:
    process = await run_app("thread", "2")
    await service.jobs.enqueue("hangs", queue=queue)
    for _ in range(2):  # The first run releases the job, so the second run starts it again.
        assert await read_line(process) == "started"
        process.send_signal(signal.SIGTERM)
        assert await read_line(process) == "stopped"
    assert await asyncio.wait_for(process.wait(), 15) == 0
