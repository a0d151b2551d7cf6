"""Jobs on the command line: enqueue, list, show, cancel, retry and watch."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from typer.testing import Result

Cli = Callable[..., Result]
Rpc = Callable[..., Any]


def enqueue(cli: Cli, *args: str) -> str:
    result = cli("enqueue", "resize", *args)
    assert (result.exit_code, result.stderr) == (0, "")
    return str(UUID(result.stdout.strip()))


def show(cli: Cli, job_id: str) -> dict[str, Any]:
    result = cli("jobs", "show", job_id, "--json")
    assert result.exit_code == 0
    job: dict[str, Any] = json.loads(result.stdout)
    return job


def test_a_database_url_suffices_for_all_calls(stack: Any, cli: Cli, queue: str) -> None:
    database_only = {
        "SUPABASE_URL": None,
        "SUPABASE_KEY": None,
        "PICTURE_QUEUE_DATABASE_URL": stack.db_url,
    }
    result = cli("enqueue", "resize", "--queue", queue, **database_only)
    assert (result.exit_code, result.stderr) == (0, "")
    listed = cli("jobs", "list", "--queue", queue, "--json", **database_only)
    assert [job["id"] for job in json.loads(listed.stdout)] == [result.stdout.strip()]


def test_a_job_is_enqueued_with_all_options(cli: Cli, queue: str) -> None:
    user = str(uuid4())
    job_id = enqueue(
        cli,
        '{"path": "a.png"}',
        *("--queue", queue, "--priority", "7", "--max-attempts", "9", "--delay", "2h"),
        *("--idempotency-key", queue, "--user-id", user),
    )
    job = show(cli, job_id)
    due = datetime.fromisoformat(job["scheduled_for"]) - datetime.now(UTC)
    assert timedelta(hours=1.9) < due < timedelta(hours=2.1)
    expected = {
        "id": job_id,
        "job_type": "resize",
        "payload": {"path": "a.png"},
        "queue": queue,
        "priority": 7,
        "max_attempts": 9,
        "idempotency_key": queue,
        "user_id": user,
        "status": "pending",
        "hold": "scheduled",
    }
    assert {name: job[name] for name in expected} == expected


def test_a_repeated_idempotency_key_returns_the_first_job(cli: Cli, queue: str) -> None:
    options = ("--idempotency-key", queue, "--queue", queue)
    first, second = (
        json.loads(cli("enqueue", "resize", *options, "--json").stdout) for _ in range(2)
    )
    assert (first["outcome"], second["outcome"]) == ("created", "existing")
    assert first["job_id"] == second["job_id"]
    without_json = cli("enqueue", "resize", *options)
    assert without_json.stdout.strip() == first["job_id"]
    assert "already" in without_json.stderr


def test_a_payload_is_read_from_standard_input(cli: Cli, queue: str) -> None:
    result = cli("enqueue", "resize", "-", "--queue", queue, input='{"a": [1, 2]}')
    assert show(cli, result.stdout.strip())["payload"] == {"a": [1, 2]}


def test_jobs_are_listed_newest_first_and_by_status(cli: Cli, queue: str) -> None:
    first, second = (enqueue(cli, "--queue", queue) for _ in range(2))
    assert cli("jobs", "cancel", first).stdout.strip() == "cancelled"
    listed = json.loads(cli("jobs", "list", "--queue", queue, "--json").stdout)
    assert [job["id"] for job in listed] == [second, first]
    lines = cli("jobs", "list", "--queue", queue, "--status", "cancelled").stdout.splitlines()
    assert lines[0].split() == ["id", "type", "queue", "attempt", "status", "created"]
    assert lines[1].split()[:7] == [first, "resize", queue, "0", "of", "3", "cancelled"]
    assert len(lines) == 2


def test_an_empty_list_is_explained_on_standard_error(cli: Cli, queue: str) -> None:
    result = cli("jobs", "list", "--queue", queue)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"No job matches --queue {queue}. No such queue.\n"
    assert json.loads(cli("jobs", "list", "--queue", queue, "--json").stdout) == []


def test_a_job_is_shown_as_text(cli: Cli, queue: str) -> None:
    job_id = enqueue(cli, '{"path": "ä.png"}', "--queue", queue, "--delay", "1h")
    lines = dict(line.split(maxsplit=1) for line in cli("jobs", "show", job_id).stdout.splitlines())
    assert lines["id"].strip() == job_id
    assert lines["status"].strip() == "pending (scheduled)"
    assert lines["why"].strip().startswith("It is scheduled for later. (until 20")
    assert show(cli, job_id)["why"]["reason"] == "scheduled"
    assert lines["payload"].strip() == '{"path": "ä.png"}'
    assert "error" not in lines


def test_a_cancelled_job_is_retried(cli: Cli, queue: str) -> None:
    job_id = enqueue(cli, "--queue", queue)
    cancelled = json.loads(cli("jobs", "cancel", job_id, "--json").stdout)
    assert (cancelled["job_id"], cancelled["status"]) == (job_id, "cancelled")
    assert cli("jobs", "retry", job_id).stdout.strip() == "pending"
    assert show(cli, job_id)["status"] == "pending"


def test_a_completed_job_cannot_be_cancelled_or_retried(cli: Cli, rpc: Rpc, queue: str) -> None:
    job_id = enqueue(cli, "--queue", queue)
    finish(rpc, queue)
    for command in ("cancel", "retry"):
        result = cli("jobs", command, job_id)
        assert (result.exit_code, result.stdout) == (9, "")
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def finish(rpc: Rpc, queue: str, error: str | None = None) -> None:
    """Claim the only job of the queue and report its outcome: completed, or failed with `error`."""
    (job,) = rpc("claim_next_job", queue=queue)
    rpc("complete_job", job_id=job["id"], result={"size": 3}, error=error)


def test_the_models_are_listed(cli: Cli) -> None:
    models = json.loads(cli("models", "--json").stdout)
    (default,) = [model["model_id"] for model in models if model["default"]]
    lines = cli("models").stdout.splitlines()
    assert len(lines) == len(models) + 1
    assert [line.split()[:2] for line in lines if "default" in line] == [[default, "default"]]


def test_the_inputs_of_a_model_are_shown(cli: Cli) -> None:
    model = "black-forest-labs/flux-schnell"
    shown = {line.split()[0]: line.split() for line in cli("models", model).stdout.splitlines()}
    assert shown["prompt"][1:] == ["*", "string"]
    assert shown["num_outputs"][1:] == ["integer", "1", "1", "to", "4"]
    as_json = json.loads(cli("models", model, "--json").stdout)
    assert as_json["model_id"] == model
    # The table begins with a line of headings, of which the first is "input".
    assert {rule["name"] for rule in as_json["inputs"]} == shown.keys() - {"input"}


def test_watching_a_finished_job_ends_at_once(cli: Cli, rpc: Rpc, queue: str) -> None:
    job_id = enqueue(cli, "--queue", queue)
    finish(rpc, queue)
    result = cli("watch", job_id)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.rstrip().endswith("completed  100 %  [snapshot]")


def test_watching_a_failed_job_exits_with_1(cli: Cli, rpc: Rpc, queue: str) -> None:
    job_id = enqueue(cli, "--queue", queue, "--max-attempts", "1")
    finish(rpc, queue, error="the disk is full")
    result = cli("watch", job_id, "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["failed"]
    assert result.stderr == f"error: Job {job_id} failed: the disk is full.\n"
    assert "the disk is full" in cli("jobs", "show", job_id).stdout


def test_watching_a_job_times_out(cli: Cli, queue: str) -> None:
    result = cli("watch", enqueue(cli, "--queue", queue), "--timeout", "0.3")
    assert result.exit_code == 8
    assert "did not finish within 0.3 s" in result.stderr


def start_watch(stack: Any, job_id: str) -> subprocess.Popen[str]:
    """Start ``watch --json`` as a process; return the process after its first line."""
    environ = {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    process = subprocess.Popen(
        [sys.executable, "-m", "picture_queue_cli", "watch", job_id, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )
    assert process.stdout
    assert json.loads(process.stdout.readline())["status"] == "pending"
    return process


def test_each_event_is_printed_as_a_line_at_once(
    stack: Any, cli: Cli, rpc: Rpc, queue: str
) -> None:
    process = start_watch(stack, enqueue(cli, "--queue", queue))
    finish(rpc, queue)
    stdout, stderr = process.communicate(timeout=30)
    states = [json.loads(line) for line in stdout.splitlines()]
    assert states[-1]["status"] == "completed"
    assert {state["source"] for state in states} <= {"socket", "snapshot", "poll"}
    assert (process.returncode, "error" in stderr) == (0, False)


def test_ctrl_c_ends_the_watch_but_not_the_job(stack: Any, cli: Cli, queue: str) -> None:
    job_id = enqueue(cli, "--queue", queue)
    process = start_watch(stack, job_id)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-2:] == [
        f"The job continues. Follow it again: picture-queue watch {job_id}",
        "error: Interrupted.",
    ]
    assert show(cli, job_id)["status"] == "pending"


def test_output_to_a_closed_pipe_is_not_an_error(stack: Any, cli: Cli, queue: str) -> None:
    enqueue(cli, "--queue", queue)
    environ = {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    result = subprocess.run(
        f"{sys.executable} -m picture_queue_cli jobs list --queue {queue} --json | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environ},
    )
    assert (result.stdout, result.stderr) == ("", "")
