"""Commands for a missing object: the error names the object, and the exit code is 4."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from .test_cli_walk import commands as all_commands

Cli = Callable[..., Result]

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
# For each command: arguments with a missing object, and a part of the expected error.
MISSING_OBJECT = {
    "batches show": [((UNKNOWN_ID,), f"No such batch: BATCH_ID is {UNKNOWN_ID}")],
    "budgets delete": [(("plan:nope",), "No such budget: KEY is 'plan:nope'")],
    "budgets show": [(("plan:nope",), "No such budget: KEY is 'plan:nope'")],
    "demo": [(("--model", "nope"), "No such model: --model is 'nope'")],
    "enqueue": [(("x", "--depends-on", UNKNOWN_ID), f"--depends-on has {UNKNOWN_ID}")],
    "generate": [(("x", "--model", "nope", "--no-watch"), "No such model: --model is 'nope'")],
    "generations batches cancel": [((UNKNOWN_ID,), f"No such batch: BATCH_ID is {UNKNOWN_ID}")],
    "generations batches show": [((UNKNOWN_ID,), f"No such batch: BATCH_ID is {UNKNOWN_ID}")],
    "generations delete": [
        ((UNKNOWN_ID, "--yes"), f"No such generation: GENERATION_ID is {UNKNOWN_ID}")
    ],
    "generations favourite": [
        ((UNKNOWN_ID,), f"No such generation: GENERATION_ID is {UNKNOWN_ID}")
    ],
    "generations list": [
        (("--before", UNKNOWN_ID), f"No such generation: generation_id is {UNKNOWN_ID}")
    ],
    "generations show": [((UNKNOWN_ID,), f"No such generation: GENERATION_ID is {UNKNOWN_ID}")],
    "jobs cancel": [
        ((UNKNOWN_ID,), f"No such job: JOB_ID is {UNKNOWN_ID}"),
        (("--queue", "nope", "--yes"), "No such queue: --queue is 'nope'"),
        (("--batch", UNKNOWN_ID, "--yes"), f"No such batch: --batch is {UNKNOWN_ID}"),
    ],
    "jobs discard": [
        ((UNKNOWN_ID, "--yes"), f"No such job: JOB_ID is {UNKNOWN_ID}"),
        ((UNKNOWN_ID, "--preview"), f"No such job: JOB_ID is {UNKNOWN_ID}"),
        (("--queue", "nope", "--yes"), "No such queue: --queue is 'nope'"),
    ],
    "jobs history": [((UNKNOWN_ID,), f"No such job: JOB_ID is {UNKNOWN_ID}")],
    "jobs retry": [
        ((UNKNOWN_ID,), f"No such job: JOB_ID is {UNKNOWN_ID}"),
        (("--queue", "nope", "--yes"), "No such queue: --queue is 'nope'"),
    ],
    "jobs show": [((UNKNOWN_ID,), f"No such job: JOB_ID is {UNKNOWN_ID}")],
    "limits delete": [(("nokey:x",), "No such limit: KEY is 'nokey:x'")],
    "limits resume": [(("nokey:x",), "No such limit: KEY is 'nokey:x'")],
    "local reset": [
        (("--data-dir", "nope", "--yes"), "There is no stack in this directory: --data-dir is nope")
    ],
    "models disable": [(("nope",), "does not offer that model: MODEL is 'nope'")],
    "models enable": [(("nope",), "does not offer that model: MODEL is 'nope'")],
    "models refresh": [(("nope",), "does not offer that model: MODEL is 'nope'")],
    "models show": [(("nope",), "does not offer that model: MODEL is 'nope'")],
    "queues drain": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues pause": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues purge": [(("nope", "--yes"), "No such queue: QUEUE is 'nope'")],
    "queues resume": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues show": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues workers": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "rules delete": [(("nope", "x", "cap"), "No such rule: MODEL is 'nope'")],
    "schedules delete": [(("nope",), "No such schedule: NAME is ")],
    "schedules pause": [(("nope",), "No such schedule: NAME is ")],
    "schedules resume": [(("nope",), "No such schedule: NAME is ")],
    "schedules run": [(("nope",), "No such schedule: NAME is ")],
    "watch": [((UNKNOWN_ID,), f"No such job: ID is {UNKNOWN_ID}")],
}
# These commands name no existing object: they select objects by a filter, create the named object,
# or have no object. The `local` commands have another exit code if no stack runs.
WITHOUT_MISSING_OBJECT = {
    *("adopt", "batches enqueue", "doctor", "events send", "health", "install", "limits list"),
    *("jobs list", "jobs reasons"),
    *("limits pause", "limits set", "local env", "local start", "local status", "local stop"),
    *("maintain", "migrate", "models add", "models list", "queues list", "queues set"),
    *("rules list", "rules set", "schedules list", "schedules set"),
    *("accounts grant", "accounts ledger", "accounts list", "accounts set", "accounts show"),
    *("budgets list", "budgets set"),
    *("serve", "settings set", "settings show", "tenants list", "tenants set", "worker"),
}


def commands() -> dict[str, Any]:
    return dict(all_commands())


def test_every_command_is_either_in_missing_object_or_in_without_missing_object() -> None:
    assert commands().keys() == MISSING_OBJECT.keys() | WITHOUT_MISSING_OBJECT
    assert not MISSING_OBJECT.keys() & WITHOUT_MISSING_OBJECT


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [(name, args, expected) for name, cases in MISSING_OBJECT.items() for args, expected in cases],
)
def test_the_error_names_the_missing_object(
    cli: Cli, name: str, args: tuple[str, ...], expected: str
) -> None:
    result = cli(*name.split(), *args)
    assert (result.exit_code, result.stdout) == (4, ""), result.output
    assert expected in result.stderr and result.stderr.count("\n") == 1
    if any("--json" in parameter.opts for parameter in commands()[name].params):
        as_json = cli(*name.split(), *args, "--json")
        assert as_json.exit_code == 4
        error = json.loads(as_json.stdout)
        assert (error["exit_code"], expected in error["error"]) == (4, True)


@pytest.mark.parametrize("file_name", [None, "notes.txt"])
def test_a_directory_without_a_stack_is_not_reset(
    cli: Cli, tmp_path: Path, file_name: str | None
) -> None:
    """An empty directory, and a directory with files that belong to no stack, are not deleted."""
    if file_name is not None:
        (tmp_path / file_name).write_text("important")
    for option in ((), ("--yes",)):
        result = cli("local", "reset", "--data-dir", str(tmp_path), *option)
        assert result.exit_code == 4
        assert "There is no stack in this directory" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ([file_name] if file_name else [])


def test_existing_jobs_are_changed_although_others_are_missing(cli: Cli, queue: str) -> None:
    job_id = json.loads(cli("enqueue", "x", "--queue", queue, "--json").stdout)["job_id"]
    result = cli("jobs", "cancel", UNKNOWN_ID, job_id)
    assert (result.exit_code, result.stdout.strip()) == (4, "cancelled")
    assert f"JOB_ID is {UNKNOWN_ID}" in result.stderr


def test_a_job_that_has_not_finished_is_not_discarded(cli: Cli, queue: str) -> None:
    job_id = json.loads(cli("enqueue", "x", "--queue", queue, "--json").stdout)["job_id"]
    result = cli("jobs", "discard", job_id, "--yes")
    assert result.exit_code == 9
    assert f"picture-queue jobs cancel {job_id}" in result.stderr


def test_a_filter_without_matches_is_repeated_in_the_message(cli: Cli, queue: str) -> None:
    cli("enqueue", "x", "--queue", queue)
    result = cli("jobs", "list", "--queue", queue, "--tag", "night")
    assert (result.exit_code, result.stderr) == (
        0,
        f"No job matches --queue {queue} and --tag night.\n",
    )
    result = cli("jobs", "retry", "--queue", queue)
    assert (result.exit_code, result.stderr) == (0, f"No failed job matches --queue {queue}.\n")


@pytest.mark.parametrize("command", ["list", "reasons"])
def test_a_list_of_a_missing_queue_is_empty_and_explained(cli: Cli, command: str) -> None:
    result = cli("jobs", command, "--queue", "nope")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "--queue nope" in result.stderr and "No such queue." in result.stderr
    assert json.loads(cli("jobs", command, "--queue", "nope", "--json").stdout) == []


def test_a_paused_key_is_shown_and_resumed(cli: Cli, queue: str) -> None:
    key = f"model:{queue}"
    assert cli("limits", "pause", key).stdout == f"{key}: paused\n"
    assert "paused until" in cli("limits", "pause", key, "--for", "1h").stdout
    assert cli("limits", "resume", key).stdout == f"{key}: not paused\n"
