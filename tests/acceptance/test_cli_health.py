"""``health`` and waiting commands show why jobs do not run; texts of other users are escaped."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from typer.testing import Result

from picture_queue import PictureQueue
from picture_queue._realtime import follow

TASKS = r"""
from picture_queue import PermanentFailure, Worker

worker = Worker()

@worker.handler("good")
async def good(payload: dict) -> None:
    pass

@worker.handler("permanent")
async def permanent(payload: dict) -> None:
    raise PermanentFailure("no \x1b[2J")
"""
Cli = Callable[..., Result]
Rpc = Callable[..., Any]


@pytest.fixture
def execute(stack: Any) -> Callable[..., None]:
    """Return a function that executes a statement as the owner of the tables."""

    def call(sql: str, *values: Any) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(stack.db_url, timeout=10)
            try:
                await connection.execute(sql, *values)
            finally:
                await connection.close(timeout=5)

        asyncio.run(run())

    return call


@pytest.fixture
def worker(rpc: Rpc, queue: str) -> str:
    """Register a worker in the database, without a process."""
    name = f"w-{uuid4().hex[:8]}"
    rpc("register_worker", worker=name, queues=[queue], job_types={"resize": {}})
    return name


@contextmanager
def running_worker(
    stack: Any, directory: Path, queue: str, *args: str
) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """Run a worker; yield its process, name and log file once the worker has registered."""
    (directory / "tasks.py").write_text(TASKS)
    name, log = f"w-{uuid4().hex[:8]}", directory / "worker.log"
    environ = {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    command = [sys.executable, "-m", "picture_queue_cli", "worker", "--name", name, *args]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--app", "tasks:worker", "--queue", queue],
            env={**os.environ, **environ},
            cwd=directory,
            stderr=file,
            text=True,
        )
    try:
        with PictureQueue(stack.api_url, stack.service_role_key) as pq:
            deadline = time.monotonic() + 30
            while name not in {registered.worker for registered in pq.health().workers}:
                assert process.poll() is None and time.monotonic() < deadline
        yield process, name, log
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def explain_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waiting commands ask for the reason after 0.05 s instead of 3 s."""
    monkeypatch.setattr(follow, "EXPLAIN_INTERVAL", 0.05)


def read_health_line(cli: Cli, name: str) -> str:
    result = cli("health")
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(f"{name} ")]
    return line


def test_a_worker_that_holds_jobs_is_busy(cli: Cli, rpc: Rpc, queue: str, worker: str) -> None:
    assert "idle" in read_health_line(cli, worker)
    cli("enqueue", "resize", "--queue", queue)
    rpc("claim_jobs", worker=worker, queues=[queue], job_types=["resize"], max_jobs=5)
    assert "busy with 1 job" in read_health_line(cli, worker)
    workers = json.loads(cli("health", "--json").stdout)["workers"]
    assert [row["running"] for row in workers if row["worker"] == worker] == [1]


def test_a_killed_worker_is_not_shown_as_idle(
    cli: Cli, stack: Any, tmp_path: Path, queue: str, execute: Callable[..., None]
) -> None:
    with running_worker(stack, tmp_path, queue) as (process, name, _):
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    line = "idle"
    # A claim that the worker sent before it was killed may set seen_at after the first update.
    while "idle" in line:
        assert time.monotonic() < deadline, line
        execute(
            "update picture_queue.worker set seen_at = now() - interval '37 s' where name = $1",
            name,
        )
        line = read_health_line(cli, name)
    assert "no contact for 3" in line


@pytest.mark.parametrize("verbose", [True, False])
def test_a_verbose_worker_logs_each_finished_job(
    cli: Cli, stack: Any, tmp_path: Path, queue: str, verbose: bool
) -> None:
    with running_worker(stack, tmp_path, queue, *(["-v"] if verbose else [])) as (process, _, log):
        ids = [
            cli("enqueue", job_type, "--queue", queue).stdout.strip()
            for job_type in ("good", "permanent")
        ]
        assert [cli("watch", job_id, "--timeout", "30").exit_code for job_id in ids] == [0, 1]
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log_text = log.read_text()
    assert (f"Job {ids[0]} (good) completed" in log_text) is verbose
    (failure,) = [line for line in log_text.splitlines() if f"Job {ids[1]} (permanent)" in line]
    assert ": no " in failure and "\x1b" not in log_text
    assert 'raise PermanentFailure("no' in log_text


def test_a_paused_queue_is_shown_as_paused(cli: Cli, queue: str) -> None:
    cli("enqueue", "resize", "--queue", queue)
    cli("queues", "pause", queue, "--reason", "repairs")
    assert "paused: repairs" in read_health_line(cli, queue)
    assert f"1 job in queue {queue}" in cli("health").stdout
    assert f"Queue {queue} is paused." in cli("health").stdout
    health = json.loads(cli("health", "--json").stdout)
    (row,) = [row for row in health["queues"] if row["queue"] == queue]
    assert (row["paused"], row["pause_reason"], row["resume_at"]) == (True, "repairs", None)
    (held,) = [row for row in health["held"] if row["queue"] == queue]
    assert (held["reason"], held["jobs"]) == ("queue_paused", 1)
    cli("queues", "resume", queue)
    assert "paused" not in read_health_line(cli, queue)


def test_a_snoozed_job_is_shown_with_its_reason(
    cli: Cli, rpc: Rpc, queue: str, worker: str
) -> None:
    cli("enqueue", "resize", "--queue", queue)
    (job,) = rpc("claim_jobs", worker=worker, queues=[queue], job_types=["resize"], max_jobs=1)
    outcome = {
        "job_id": job["id"],
        "lease_id": job["lease_id"],
        "outcome": "snoozed",
        "delay_seconds": 60,
        "detail": "NotReached: out of reach",
    }
    rpc("report_jobs", outcomes=[outcome])
    expected = "A handler postponed it: NotReached: out of reach"
    health = json.loads(cli("health", "--json").stdout)
    (held,) = [row for row in health["held"] if row["queue"] == queue]
    assert (held["reason"], held["detail"]) == ("scheduled", expected)
    assert expected in cli("health").stdout
    assert expected in cli("jobs", "show", job["id"]).stdout


def test_failed_jobs_of_the_last_day_are_shown(cli: Cli, rpc: Rpc, queue: str) -> None:
    job_id = cli("enqueue", "resize", "--queue", queue, "--max-attempts", "2").stdout.strip()
    for _ in range(2):
        jobs = rpc(
            "claim_jobs", worker="test-worker", queues=[queue], job_types=["resize"], max_jobs=1
        )
        outcome = {"job_id": job_id, "lease_id": jobs[0]["lease_id"], "outcome": "failed"}
        rpc("report_jobs", outcomes=[{**outcome, "error": "no", "delay_seconds": 0}])
        rpc("maintain_jobs", force=True)
    assert "failed in 24 h" in cli("health").stdout
    (row,) = [
        row for row in json.loads(cli("health", "--json").stdout)["queues"] if row["queue"] == queue
    ]
    assert row["failed_last_day"] == 1
    cli("jobs", "retry", job_id)
    assert " 0 " in read_health_line(cli, queue)


def test_watch_prints_why_a_job_waits(cli: Cli, queue: str, explain_at_once: None) -> None:
    job_id = cli("enqueue", f"odd-{queue}", "--queue", queue).stdout.strip()
    result = cli("watch", job_id, "--timeout", "2")
    assert result.exit_code == 8
    reason = f"No worker seen in the last minute takes jobs of type odd-{queue}"
    # The reason is printed during the wait, and at the timeout.
    assert result.stderr.count(reason) == 2


def test_generate_prints_why_a_generation_waits(cli: Cli, explain_at_once: None) -> None:
    cli("queues", "pause", "default", "--for", "10m")
    try:
        result = cli("generate", "a cat", "--timeout", "2")
        assert result.exit_code == 8
        assert "Queue default is paused. (until " in result.stderr
    finally:
        cli("queues", "resume", "default")


# --- Images that cannot be stored ---


def generation_ids(rpc: Rpc) -> set[str]:
    return {row["id"] for row in rpc("list_generations", filter={"limit": 1000})}


@pytest.mark.parametrize("api", ["none", "wrong key", "key of users"])
def test_generate_starts_nothing_if_it_could_not_save_the_images(
    cli: Cli, rpc: Rpc, stack: Any, api: str
) -> None:
    environ = direct_environment(stack, api)
    before = generation_ids(rpc)
    result = cli("generate", "a cat", "--timeout", "1", **environ)
    assert (result.exit_code, result.stdout) == (5 if api == "wrong key" else 2, ""), result.stderr
    assert result.stderr.count("\n") == 1
    if api == "none":
        assert "SUPABASE_URL is not set" in result.stderr
    assert generation_ids(rpc) == before


def test_generate_without_saving_needs_no_api(cli: Cli, rpc: Rpc, stack: Any) -> None:
    result = cli("generate", "a cat", "--no-watch", **direct_environment(stack, "none"))
    assert result.exit_code == 0, result.stderr
    rpc("cancel_generation", generation_id=result.stdout.strip())


@pytest.mark.parametrize("api", ["none", "wrong key", "key of users"])
def test_a_worker_that_cannot_store_images_does_not_start(
    stack: Any, rpc: Rpc, tmp_path: Path, api: str
) -> None:
    name = f"w-{uuid4().hex[:8]}"
    inherited = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith(("SUPABASE_", "REPLICATE_"))
    }
    environ = {
        variable: value
        for variable, value in direct_environment(stack, api).items()
        if value is not None
    }
    result = subprocess.run(
        [sys.executable, "-m", "picture_queue_cli", "worker", "--name", name],
        env=inherited
        | environ
        | {"REPLICATE_API_TOKEN": stack.replicate_token, "REPLICATE_BASE_URL": stack.replicate_url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert result.returncode == (5 if api == "wrong key" else 2), result.stderr
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ") and "Traceback" not in result.stderr
    assert name not in {row["worker"] for row in rpc("queue_status")["workers"]}


def direct_environment(stack: Any, api: str) -> dict[str, str | None]:
    """Return the environment of a direct database connection, with this kind of access to the API.

    Images are stored through the API, also by a worker that uses a database connection.
    """
    url = None if api == "none" else stack.api_url
    key = {"none": None, "wrong key": "wrong", "key of users": stack.anon_key}[api]
    return {
        "SUPABASE_URL": url,
        "SUPABASE_KEY": key,
        "PICTURE_QUEUE_DATABASE_URL": stack.db_url,
    }


# --- Texts of other users ---

#: Control sequences of terminals (set the title, clear the screen), and markup of rich.
ATTACK = "\x1b]0;owned\x07\x1b[2J[/red]"


def test_texts_of_other_users_are_escaped(cli: Cli, rpc: Rpc, queue: str) -> None:
    enqueued = cli("enqueue", "resize", "--queue", queue, "--idempotency-key", queue + ATTACK)
    job_id = enqueued.stdout.strip()
    (job,) = rpc(
        "claim_jobs", worker="test-worker", queues=[queue], job_types=["resize"], max_jobs=1
    )
    lines = [{"level": "info", "message": f"log {ATTACK}"}]
    rpc("log_job", job_id=job_id, lease_id=job["lease_id"], lines=lines)
    outcome = {"job_id": job_id, "lease_id": job["lease_id"], "outcome": "failed"}
    failure = {"error": f"no {ATTACK}", "detail": f"Traceback\n  {ATTACK}", "retryable": False}
    rpc("report_jobs", outcomes=[{**outcome, **failure}])
    cli("limits", "pause", f"key {queue} [/red]")
    for command in (
        ("jobs", "show", job_id),
        ("jobs", "history", job_id),
        ("jobs", "reasons", "--queue", queue),
        ("watch", job_id),
    ):
        result = cli(*command)
        assert not set("\x1b\x07\x9b") & set(result.output), command
        assert r"\x1b]" in result.output and "[/red]" in result.output, command
    assert f"key {queue} [/red]" in cli("limits", "list").stdout
    cli("limits", "resume", f"key {queue} [/red]")


def test_the_traceback_of_a_failed_attempt_is_in_the_history(
    cli: Cli, rpc: Rpc, queue: str
) -> None:
    job_id = cli("enqueue", "resize", "--queue", queue, "--max-attempts", "1").stdout.strip()
    (job,) = rpc(
        "claim_jobs", worker="test-worker", queues=[queue], job_types=["resize"], max_jobs=1
    )
    outcome = {"job_id": job_id, "lease_id": job["lease_id"], "outcome": "failed", "error": "no"}
    rpc("report_jobs", outcomes=[{**outcome, "detail": "Traceback:\n  line 7, in resize"}])
    text = cli("jobs", "history", job_id).stdout
    assert "Attempt 1, " in text
    # Each line of the traceback is indented.
    assert "\n  Traceback:\n    line 7, in resize\n" in text
