"""Handlers in executors: threads, processes, loky and Dask."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from picture_queue import InvalidArgument, JobCancelled, JobFailed, JobStatus, Worker

from .executor_app import add_handlers, compute, exit_process

ROOT = Path(__file__).parents[2]
APP = Path(__file__).with_name("executor_app.py")
pytestmark = pytest.mark.timeout(240)
EXECUTORS = ["thread", "process", "loky", "dask"]


@pytest.fixture(autouse=True)
def let_processes_import_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def worker(new_worker: Callable[..., Worker], executor: str) -> AsyncIterator[Worker]:
    worker = new_worker(concurrency=2)
    add_handlers(worker, executor)
    async with worker:
        yield worker


@pytest.fixture
def payload(tmp_path: Path, executor: str) -> dict[str, Any]:
    return {"report": str(tmp_path / "report"), "executor": executor}


def read_report(payload: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the lines of the handler: the event and the process id."""
    path = Path(payload["report"])
    lines = path.read_text().splitlines() if path.exists() else []
    return [(event, int(pid)) for event, pid in map(str.split, lines)]


def release(payload: dict[str, Any]) -> None:
    """Let the first attempt finish, if it still runs."""
    Path(payload["release"]).touch()


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_handler_runs_with_progress_and_log(service, queue, worker, executor, payload):
    job = await service.jobs.enqueue("compute", payload, queue=queue)
    result = await service.jobs.result(job.id, timeout=100)
    assert (result["pid"] == os.getpid()) == (executor == "thread")
    history = await service.jobs.history(job.id)
    assert [line.message for line in history.log] == ["computing"]
    assert [event for event, _ in read_report(payload)] == ["started", "finished"]


async def test_an_exception_has_its_traceback(service, queue, worker):
    job = await service.jobs.enqueue("fail", queue=queue, max_attempts=1)
    with pytest.raises(JobFailed, match="ValueError: no disk"):
        await service.jobs.result(job.id, timeout=100)
    history = await service.jobs.history(job.id)
    assert 'raise ValueError("no disk")' in str(history.attempts[0].detail)


async def test_a_cancel_ends_the_handler(
    service, queue, worker, payload, until, tmp_path, wait_for_job
):
    payload["release"] = str(tmp_path / "release")
    job = await service.jobs.enqueue("compute", payload, queue=queue)
    await wait_for_job(job.id, lambda event: event.progress == 50, timeout=100)
    await service.jobs.cancel(job.id)
    with pytest.raises(JobCancelled):
        await service.jobs.result(job.id, timeout=100)
    await until(lambda: not worker._supervisor._slots.attempts, timeout=60)
    assert [event for event, _ in read_report(payload)] == ["started"]


async def test_a_timeout_ends_the_handler(service, queue, worker, payload, until, tmp_path):
    payload["release"] = str(tmp_path / "release")
    job = await service.jobs.enqueue("compute", payload, queue=queue, timeout=5, max_attempts=1)
    with pytest.raises(JobFailed, match="TimeoutError"):
        await service.jobs.result(job.id, timeout=100)
    await until(lambda: not worker._supervisor._slots.attempts, timeout=60)
    assert "finished" not in [event for event, _ in read_report(payload)]


async def test_a_stop_releases_the_job_and_ends_the_handler(
    service, queue, worker, payload, tmp_path, wait_for_job
):
    payload["release"] = str(tmp_path / "release")
    job = await service.jobs.enqueue("compute", payload, queue=queue)
    await wait_for_job(job.id, lambda event: event.progress == 50, timeout=100)
    await worker.stop()
    released = await service.jobs.get(job.id)
    assert (released.status, released.attempt) == (JobStatus.PENDING, 0)


async def test_the_handler_of_a_killed_worker_ends_and_its_job_runs_once(
    service, queue, stack, executor, payload, new_worker, until, tmp_path, wait_for_job
):
    payload["release"] = str(tmp_path / "release")
    project = {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, APP, queue, executor), env=os.environ | project
    )
    try:
        job = await service.jobs.enqueue("compute", payload, queue=queue)
        await wait_for_job(job.id, lambda event: event.progress == 50, timeout=100)
        ((_, pid),) = read_report(payload)
        process.kill()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    worker = new_worker(poll_interval=0.2)
    worker.handler("compute")(compute)
    async with worker:
        result = await service.jobs.result(job.id, timeout=100)
        await until(lambda: has_ended(pid), timeout=60)
    release(payload)  # an orphaned handler would finish now
    assert result == {"pid": os.getpid()}
    assert read_report(payload) == [
        ("started", pid),
        ("started", os.getpid()),
        ("finished", os.getpid()),
    ]


async def test_the_end_of_a_process_fails_only_its_own_job(
    service, queue, new_worker, tmp_path, wait_for_job
):
    worker = new_worker(concurrency=2)
    worker.handler("compute", executor="process")(compute)
    worker.handler("exit", executor="process")(exit_process)
    payload = {
        "report": str(tmp_path / "report"),
        "executor": "process",
        "release": str(tmp_path / "release"),
    }
    async with worker:
        running = await service.jobs.enqueue("compute", payload, queue=queue)
        await wait_for_job(running.id, lambda event: event.progress == 50, timeout=100)
        dying = await service.jobs.enqueue("exit", queue=queue, max_attempts=1)
        with pytest.raises(JobFailed, match="ended before the call did"):
            await service.jobs.result(dying.id, timeout=100)
        release(payload)
        assert (await service.jobs.result(running.id, timeout=100))["pid"] != os.getpid()


async def test_a_call_that_an_engine_repeats_does_not_run_again(
    service, queue, new_worker, tmp_path
):
    from concurrent.futures import Future, ThreadPoolExecutor

    class RepeatingExecutor(ThreadPoolExecutor):
        """An engine that runs each call twice, and returns the second answer."""

        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            super().submit(function, *args, **kwargs).exception()
            return super().submit(function, *args, **kwargs)

    worker = new_worker()
    worker.handler("compute", executor=RepeatingExecutor)(compute)
    payload = {"report": str(tmp_path / "report"), "executor": "process"}
    async with worker:
        job = await service.jobs.enqueue("compute", payload, queue=queue, max_attempts=1)
        with pytest.raises(JobFailed, match="was started before"):
            await service.jobs.result(job.id, timeout=60)
    assert [event for event, _ in read_report(payload)] == ["started", "finished"]


@pytest.mark.parametrize(
    ("executor", "fault"),
    [("fork", "The executor of 'x' is 'fork'"), ("process", "is async and has an executor")],
)
def test_an_unusable_executor_is_refused(new_worker, executor, fault):
    async def handler() -> None: ...

    with pytest.raises(InvalidArgument, match=fault):
        new_worker().handler("x", executor=executor)(handler)
