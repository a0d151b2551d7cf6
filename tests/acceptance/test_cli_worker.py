"""``picture-queue worker`` as a process: drains, several processes, restarts and reloads."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from picture_queue import JobStatus, PictureQueue

from .conftest import PROGRAM, UNSET

#: Each test starts several processes, one after the other.
pytestmark = pytest.mark.timeout(240)

TASKS = """
import os, time
from picture_queue import SyncJobContext, Worker

worker = Worker()

@worker.handler("pid")
def pid() -> int:
    return os.getpid()

@worker.handler("fails")
def fails() -> None:
    raise ValueError("no")

@worker.handler("leaks")
def leaks() -> None:
    password, token = "hunter" + "2", "r8_" + 3 * "0123456789"
    raise ValueError(f"https://me:{password}@example.com refused {token}")

@worker.handler("waits")
def waits(payload: dict, job: SyncJobContext) -> str:
    while not job.shutdown_requested:
        time.sleep(0.01)
    return "finished"
"""


@pytest.fixture
def pq(stack: Any) -> Iterator[PictureQueue]:
    with PictureQueue(stack.api_url, stack.service_role_key) as client:
        yield client


@pytest.fixture
def start(
    stack: Any, tmp_path: Path, queue: str
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Return a function that starts ``picture-queue worker`` with the handlers of `TASKS`."""
    (tmp_path / "tasks.py").write_text(TASKS)
    inherited = {name: value for name, value in os.environ.items() if name not in UNSET}
    project = {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    started: list[subprocess.Popen[str]] = []

    def call(*args: str, app: str = "tasks:worker") -> subprocess.Popen[str]:
        command = [*PROGRAM, "worker", "--app", app, "--queue", queue, "--name", queue]
        process = subprocess.Popen(
            [*command, *args],
            env=inherited | project,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        children = children_of(process) if process.poll() is None else []
        process.kill()
        for child in children:
            child.kill()
        print(process.communicate()[1])  # shown if the test fails


def children_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 100
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def registered_workers(pq: PictureQueue, queue: str) -> set[str]:
    return {row.worker for row in pq.health().workers if queue in row.queues}


def wait_for_workers(pq: PictureQueue, queue: str, count: int = 2) -> None:
    names = {f"{queue}-{index + 1}" for index in range(count)}
    wait_until(lambda: registered_workers(pq, queue) == names)


def test_a_drain_runs_what_is_due_and_exits(start: Any, pq: PictureQueue, queue: str) -> None:
    names = ("pid", "pid", "fails")
    jobs = [pq.jobs.enqueue(name, queue=queue, max_attempts=1) for name in names]
    process = start("--once", "--time-limit", "60s")
    assert process.communicate(timeout=100)[0] == "2 processed, 1 failed\n"
    assert process.returncode == 0
    assert [pq.jobs.get(job.id).status for job in jobs] == ["completed", "completed", "failed"]


def test_the_json_log_has_a_line_for_each_attempt_without_secrets(
    start: Any, pq: PictureQueue, queue: str
) -> None:
    done = pq.jobs.enqueue("pid", queue=queue)
    failed = pq.jobs.enqueue("leaks", queue=queue, max_attempts=1)
    process = start("--once", "--log-format", "json")
    _, log = process.communicate(timeout=100)
    lines = [json.loads(line) for line in log.splitlines()]
    attempts = {line["job_id"]: line for line in lines if "job_id" in line}
    assert set(attempts) == {str(done.id), str(failed.id)}
    line = attempts[str(done.id)]
    names = ("job_type", "queue", "worker", "attempt", "outcome", "status", "level")
    expected = ("pid", queue, queue, 1, "completed", "completed", "info")
    assert tuple(line[name] for name in names) == expected
    line = attempts[str(failed.id)]
    assert (line["outcome"], line["level"]) == ("failed", "error")
    assert line["error"] == "ValueError: https://[secret]@example.com refused [secret]"
    assert line["traceback"].startswith("Traceback")
    (attempt,) = pq.jobs.history(failed.id).attempts
    stored = f"{log}\n{attempt.error}\n{attempt.detail}"
    assert 'raise ValueError(f"https://' in str(attempt.detail)
    assert "hunter2" not in stored and "0123456789" not in stored


def test_several_processes_drain_together(start: Any, pq: PictureQueue, queue: str) -> None:
    jobs = [pq.jobs.enqueue("pid", queue=queue) for _ in range(4)]
    process = start("--drain", "--processes", "2")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert sum(int(line.split()[0]) for line in output.splitlines()) == 4
    assert {pq.jobs.get(job.id).status for job in jobs} == {JobStatus.COMPLETED}


def test_a_killed_process_is_started_again(start: Any, pq: PictureQueue, queue: str) -> None:
    process = start("--processes", "2")
    wait_for_workers(pq, queue)
    first, second = children_of(process)
    first.kill()

    def has_replacement() -> bool:
        return len(set(children_of(process)) - {first, second}) == 1

    wait_until(has_replacement)
    second.suspend()  # so that only the new process can run the job
    try:
        job = pq.jobs.enqueue("pid", queue=queue)
        result = pq.jobs.result(job.id, timeout=100)
    finally:
        second.resume()
    assert result in {child.pid for child in children_of(process)} - {second.pid}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_processes_after_their_jobs(
    start: Any, pq: PictureQueue, queue: str, number: signal.Signals
) -> None:
    process = start("--processes", "2", "--concurrency", "1")
    jobs = [pq.jobs.enqueue("waits", queue=queue) for _ in range(2)]
    wait_until(lambda: {pq.jobs.get(job.id).status for job in jobs} == {JobStatus.PROCESSING})
    process.send_signal(number)
    process.communicate(timeout=100)
    assert process.returncode == 0
    assert [pq.jobs.get(job.id).result for job in jobs] == ["finished", "finished"]
    assert registered_workers(pq, queue) == set()


def test_the_processes_of_a_dead_parent_stop(start: Any, pq: PictureQueue, queue: str) -> None:
    process = start("--processes", "2", "--concurrency", "1")
    jobs = [pq.jobs.enqueue("waits", queue=queue) for _ in range(2)]
    wait_until(lambda: {pq.jobs.get(job.id).status for job in jobs} == {JobStatus.PROCESSING})
    children = children_of(process)
    process.kill()
    wait_until(lambda: all(has_ended(child) for child in children))
    assert [pq.jobs.get(job.id).result for job in jobs] == ["finished", "finished"]


def test_a_process_that_reached_max_jobs_is_replaced(
    start: Any, pq: PictureQueue, queue: str
) -> None:
    process = start("--processes", "2", "--max-jobs", "1")
    jobs = [pq.jobs.enqueue("pid", queue=queue) for _ in range(4)]
    pids = [pq.jobs.result(job.id, timeout=100) for job in jobs]
    assert len(set(pids)) == 4
    assert process.poll() is None


def test_a_wrong_setting_ends_all_processes(start: Any) -> None:
    process = start("--processes", "2", app="missing:worker")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "--app missing:worker cannot be imported" in errors


def test_a_time_limit_needs_a_drain(start: Any) -> None:
    process = start("--time-limit", "5s")
    assert "--time-limit is given without --drain" in process.communicate(timeout=100)[1]
    assert process.returncode == 2


def test_a_changed_file_is_loaded(start: Any, pq: PictureQueue, queue: str, tmp_path: Path) -> None:
    process = start("--reload")
    old = pq.jobs.enqueue("pid", queue=queue)
    assert isinstance(pq.jobs.result(old.id, timeout=100), int)
    (tmp_path / "tasks.py").write_text("a syntax error")
    wait_until(lambda: not children_of(process))
    (tmp_path / "tasks.py").write_text(TASKS.replace("os.getpid()", "-1"))
    new = pq.jobs.enqueue("pid", queue=queue)
    assert pq.jobs.result(new.id, timeout=100) == -1
