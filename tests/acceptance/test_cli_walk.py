"""Every option of every command with values that nobody means: never a traceback."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import Result

from picture_queue_cli.app import app
from picture_queue_cli.errors import ExitCode

Cli = Callable[..., Result]

NOBODY = "00000000-0000-4000-8000-000000000000"
WRONG = ("", "\u00a0", "\udcff", "[/]", "9" * 400, "[" * 3000, "x" * 20_000)
# What each argument is while another one is tried.
RIGHT = {
    "jobs": "[]",
    "values": "max_attempts=3",
    "settings": "max_attempts=3",
    "weight": "1",
    "payload": "{}",
    **dict.fromkeys(("job_id", "job_ids", "some_id", "batch_id"), NOBODY),
}
# These start, stop or change more than a row; tests of their own try them.
ELSEWHERE = {"demo", "worker", "local", "install", "migrate", "adopt", "doctor"}
# Without these a command would wait, ask, or be refused for another reason.
ALWAYS = {
    "generate": ("--no-watch",),
    "watch": ("--timeout", "1"),
    "jobs cancel": ("--yes",),
    "jobs retry": ("--yes",),
    "jobs discard": ("--yes",),
    "queues purge": ("--yes",),
    "schedules set": ("--cron", "@yearly", "--paused"),
    "limits set": ("--max-running", "5"),
}


def commands() -> Iterator[Any]:
    """Each command with its arguments, and the parameters that no command before it has."""
    root: Any = typer.main.get_command(app)
    known = set()
    for group, command in root.commands.items():
        if group in ELSEWHERE:
            continue
        for inner, one in getattr(command, "commands", {"": command}).items():
            new = []
            for parameter in one.params:
                key = (parameter.name, parameter.help)
                if key not in known and not getattr(parameter, "is_flag", False):
                    new.append(parameter)
                known.add(key)
            name = f"{group} {inner}".strip()
            arguments = [p.name for p in one.params if not is_option(p)]
            if new:
                yield pytest.param(name, arguments, new, id=name)


def is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


@pytest.mark.parametrize(("name", "arguments", "parameters"), list(commands()))
def test_wrong_values_end_in_one_line(
    cli: Cli, queue: str, name: str, arguments: list[str], parameters: list[Any]
) -> None:
    right = {argument: RIGHT.get(argument, queue) for argument in arguments}
    for parameter in parameters:
        for value in WRONG:
            options, given = [*ALWAYS.get(name, ())], right
            if is_option(parameter):
                options.append(f"{max(parameter.opts, key=len)}={value}")
                given = {k: v for k, v in right.items() if k != "job_ids"}
            else:
                given = {**right, parameter.name: value}
            done = cli(*name.split(), *options, "--", *given.values(), input="")
            expect_one_line(done, f"{name} {parameter.name} {value[:20]!r}")


def expect_one_line(done: Result, tried: str) -> None:
    assert done.exception is None or isinstance(done.exception, SystemExit), (tried, done.exception)
    if done.exit_code == 0:
        return
    known = set(ExitCode) - {ExitCode.FAILED, ExitCode.LOCAL, ExitCode.INTERRUPTED}
    assert done.exit_code in known, (tried, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (tried, done.stderr)
    assert len(done.stderr) < 1000, (tried, done.stderr)
