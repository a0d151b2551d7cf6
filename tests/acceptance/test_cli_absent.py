"""A command that names something absent says what, exits 4, and prints JSON with --json."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import Result

from picture_queue_cli.app import app

Cli = Callable[..., Result]

NOBODY = "00000000-0000-4000-8000-000000000000"
# The words that name something absent, and what the error says of it.
ABSENT = {
    "batches show": [((NOBODY,), f"No such batch: BATCH_ID is {NOBODY}")],
    "demo": [(("--model", "nope"), "No such model: --model is 'nope'")],
    "enqueue": [(("x", "--depends-on", NOBODY), f"--depends-on has {NOBODY}")],
    "generate": [(("x", "--model", "nope", "--no-watch"), "No such model: --model is 'nope'")],
    "jobs cancel": [
        ((NOBODY,), f"No such job: JOB_ID is {NOBODY}"),
        (("--queue", "nope", "--yes"), "No such queue: --queue is 'nope'"),
        (("--batch", NOBODY, "--yes"), f"No such batch: --batch is {NOBODY}"),
    ],
    "jobs discard": [
        ((NOBODY, "--yes"), f"No such job: JOB_ID is {NOBODY}"),
        ((NOBODY, "--preview"), f"No such job: JOB_ID is {NOBODY}"),
        (("--queue", "nope", "--yes"), "No such queue: --queue is 'nope'"),
    ],
    "jobs history": [((NOBODY,), f"No such job: JOB_ID is {NOBODY}")],
    "jobs retry": [
        ((NOBODY,), f"No such job: JOB_ID is {NOBODY}"),
        (("--queue", "nope", "--yes"), "No such queue: --queue is 'nope'"),
    ],
    "jobs show": [((NOBODY,), f"No such job: JOB_ID is {NOBODY}")],
    "limits delete": [(("nokey:x",), "No such limit: KEY is 'nokey:x'")],
    "limits resume": [(("nokey:x",), "No such limit: KEY is 'nokey:x'")],
    "local reset": [
        (("--data-dir", "nope", "--yes"), "There is no stack in this directory: --data-dir is nope")
    ],
    "models": [(("nope",), "does not offer that model: MODEL is 'nope'")],
    "queues drain": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues pause": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues purge": [(("nope", "--yes"), "No such queue: QUEUE is 'nope'")],
    "queues resume": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues show": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "queues workers": [(("nope",), "No such queue: QUEUE is 'nope'")],
    "schedules delete": [(("nope",), "No such schedule: NAME is ")],
    "schedules pause": [(("nope",), "No such schedule: NAME is ")],
    "schedules resume": [(("nope",), "No such schedule: NAME is ")],
    "schedules run": [(("nope",), "No such schedule: NAME is ")],
    "watch": [((NOBODY,), f"No such job: ID is {NOBODY}")],
}
# They name nothing, select, make what they name, or (the stack) exit 6 as all without a project.
OTHERS = {
    *("adopt", "batches enqueue", "doctor", "events send", "health", "install", "limits list"),
    *("jobs list", "jobs reasons"),
    *("limits pause", "limits set", "local env", "local start", "local status", "local stop"),
    *("maintain", "migrate", "queues list", "queues set", "schedules list", "schedules set"),
    *("settings set", "settings show", "tenants list", "tenants set", "worker"),
}


def commands() -> dict[str, Any]:
    root: Any = typer.main.get_command(app)
    return {
        f"{group} {name}".strip(): one
        for group, command in root.commands.items()
        for name, one in getattr(command, "commands", {"": command}).items()
    }


def test_every_command_is_in_one_of_the_tables() -> None:
    assert commands().keys() == ABSENT.keys() | OTHERS
    assert not ABSENT.keys() & OTHERS


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [(name, words, said) for name, cases in ABSENT.items() for words, said in cases],
)
def test_something_absent_is_named(cli: Cli, name: str, words: tuple[str, ...], said: str) -> None:
    done = cli(*name.split(), *words)
    assert (done.exit_code, done.stdout) == (4, ""), done.output
    assert said in done.stderr and done.stderr.count("\n") == 1
    if any("--json" in parameter.opts for parameter in commands()[name].params):
        answered = cli(*name.split(), *words, "--json")
        assert answered.exit_code == 4
        told = json.loads(answered.stdout)
        assert (told["exit_code"], said in told["error"]) == (4, True)


def test_of_several_jobs_those_that_exist_are_changed(cli: Cli, queue: str) -> None:
    made = json.loads(cli("enqueue", "x", "--queue", queue, "--json").stdout)["job_id"]
    done = cli("jobs", "cancel", NOBODY, made)
    assert (done.exit_code, done.stdout.strip()) == (4, "cancelled")
    assert f"JOB_ID is {NOBODY}" in done.stderr


def test_a_job_that_has_not_finished_is_not_discarded(cli: Cli, queue: str) -> None:
    made = json.loads(cli("enqueue", "x", "--queue", queue, "--json").stdout)["job_id"]
    done = cli("jobs", "discard", made, "--yes")
    assert done.exit_code == 9
    assert f"picture-queue jobs cancel {made}" in done.stderr


def test_a_filter_that_no_job_matches_is_repeated(cli: Cli, queue: str) -> None:
    cli("enqueue", "x", "--queue", queue)
    done = cli("jobs", "list", "--queue", queue, "--tag", "night")
    assert (done.exit_code, done.stderr) == (
        0,
        f"No job matches --queue {queue} and --tag night.\n",
    )
    done = cli("jobs", "retry", "--queue", queue)
    assert (done.exit_code, done.stderr) == (0, f"No failed job matches --queue {queue}.\n")


@pytest.mark.parametrize("command", ["list", "reasons"])
def test_a_selection_by_something_absent_is_empty_and_says_so(cli: Cli, command: str) -> None:
    done = cli("jobs", command, "--queue", "nope")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "--queue nope" in done.stderr and "No such queue." in done.stderr
    assert json.loads(cli("jobs", command, "--queue", "nope", "--json").stdout) == []


def test_a_paused_key_is_shown_and_resumed(cli: Cli, queue: str) -> None:
    key = f"model:{queue}"
    assert cli("limits", "pause", key).stdout == f"{key}: paused\n"
    assert "paused until" in cli("limits", "pause", key, "--for", "1h").stdout
    assert cli("limits", "resume", key).stdout == f"{key}: not paused\n"
