"""Every command prints an error of one line, not a traceback, for invalid values and projects."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import Result

from picture_queue_cli.app import app
from picture_queue_cli.errors import ExitCode

Cli = Callable[..., Result]

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
WRONG_VALUES = (
    *("", "\u00a0", "\udcff", "\x1b[31m\u202e", "[/]", "-1", "nan", "9" * 400),
    *("[" * 3000, "x" * 20_000, "@/"),
)
# Values for the other arguments of a command while one argument has a wrong value. An argument that
# is not listed here gets the name of the test's queue.
VALID_VALUES = {
    "jobs": "[]",
    "values": "max_attempts=3",
    "settings": "max_attempts=3",
    "limits": "per_minute=5",
    "weight": "1",
    "usd": "1",
    "payload": "{}",
    "action": "allow",
    **dict.fromkeys(
        ("job_id", "job_ids", "target_id", "batch_id", "generation_id", "user"), UNKNOWN_ID
    ),
}
# Options that each call has, because a command would otherwise wait, prompt, start a program, or
# fail for another reason.
FIXED_OPTIONS = {
    "adopt": ("--preview",),
    "demo": ("--model", "nobody/nothing"),
    "generate": ("--no-watch",),
    "generations delete": ("--yes",),
    "jobs cancel": ("--yes",),
    "jobs discard": ("--yes",),
    "jobs retry": ("--yes",),
    "limits set": ("--max-running", "5"),
    "local reset": ("--yes",),
    "local start": ("--port", "99999"),
    "migrate": ("--preview",),
    "models add": ("--yes",),
    "models refresh": ("--yes",),
    "queues purge": ("--yes",),
    "schedules set": ("--cron", "@yearly", "--paused"),
    "watch": ("--timeout", "1s"),
    "serve": ("--app", "nowhere_to_be_found:worker"),
    "worker": ("--app", "nowhere_to_be_found:worker"),
}
#: The same, for commands that shall call the project.
CALLING_OPTIONS = FIXED_OPTIONS | {"serve": ("--port", "0"), "worker": ()}


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command and its full name."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop(0)
        if hasattr(command, "commands"):
            waiting += [
                (f"{words} {name}".strip(), subcommand)
                for name, subcommand in command.commands.items()
            ]
        else:
            yield words, command


def takes_text(parameter: Any) -> bool:
    return not getattr(parameter, "is_flag", False)


def is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(name, command, id=name) for name, command in commands()]
)
def test_a_wrong_value_prints_an_error_of_one_line(
    cli: Cli, queue: str, name: str, command: Any
) -> None:
    valid_arguments = {
        parameter.name: VALID_VALUES.get(parameter.name, queue)
        for parameter in command.params
        if not is_option(parameter)
    }
    for parameter in command.params:
        if not takes_text(parameter) or is_tested_with_earlier_command(name, parameter):
            continue
        for value in WRONG_VALUES:
            options, arguments = [*FIXED_OPTIONS.get(name, ())], dict(valid_arguments)
            if is_option(parameter):
                options.append(f"{max(parameter.opts, key=len)}={value}")
                arguments.pop("job_ids", None)  # Commands accept either ids or options as a filter.
            else:
                arguments[parameter.name] = value
            result = cli(*name.split(), *options, "--", *arguments.values(), input="")
            expect_one_line(result, f"{name} {parameter.name} {value[:20]!r}")


def is_tested_with_earlier_command(name: str, parameter: Any) -> bool:
    """Return True if the parameter is an option that an earlier command has too."""
    key = (parameter.name, parameter.help, is_option(parameter))
    first_command = next(
        other_name
        for other_name, command in commands()
        if key in {(other.name, other.help, is_option(other)) for other in command.params}
    )
    return is_option(parameter) and first_command != name


def expect_one_line(result: Result, call: str) -> None:
    """Check that a call succeeded, or failed with a documented exit code and a plain message."""
    assert result.exception is None or isinstance(result.exception, SystemExit), (
        call,
        result.exception,
    )
    # The doctor prints its findings even if one is bad.
    if result.exit_code == 0 or (call.startswith("doctor") and result.stdout):
        return
    expected_codes = set(ExitCode) - {ExitCode.FAILED, ExitCode.LOCAL, ExitCode.INTERRUPTED}
    assert result.exit_code in expected_codes, (call, result.stderr)
    expect_plain_message(result, call)


def expect_plain_message(result: Result, call: str) -> None:
    """Check that an error is one line without terms of SQL, typer and pydantic."""
    lines = [
        line for line in result.stderr.splitlines() if not line.startswith("Using the embedded")
    ]
    assert len(lines) == 1 and lines[0].startswith("error: "), (call, result.stderr)
    assert len(lines[0]) < 1000, (call, result.stderr)
    for word in (
        "Input should",
        "validation error",
        "Invalid value",
        "()",
        "An argument is invalid",
    ):
        assert word not in lines[0], (call, result.stderr)
    assert not set("\x1b\u202e") & set(result.stderr), (call, result.stderr)


# --- Projects that cannot be reached ---

WITHOUT_PROJECT = {"demo", "install", "local start", "local stop", "local status", "local env"}
NEEDS_DATABASE = {"migrate", "adopt"}
UNREACHABLE: dict[str, tuple[dict[str, str | None], set[int]]] = {
    "no project": ({"SUPABASE_URL": None, "SUPABASE_KEY": None}, {ExitCode.USAGE}),
    "a wrong key": ({"SUPABASE_KEY": "sb_secret_wrong"}, {ExitCode.NOT_ALLOWED}),
    "a wrong password": (
        {"SUPABASE_URL": None, "SUPABASE_KEY": None, "PICTURE_QUEUE_DATABASE_URL": "wrong"},
        {ExitCode.NOT_ALLOWED},
    ),
    "a project that is stopped": (
        {"SUPABASE_URL": "http://127.0.0.1:1"},
        {ExitCode.NO_ANSWER},
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("state", UNREACHABLE)
def test_every_command_prints_one_line_for_an_unreachable_project(
    cli: Cli, stack: Any, queue: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/nowhere")
    # Each command repeats its first call; without a wait the test takes a tenth of the time.
    monkeypatch.setattr("picture_queue._transport.base._backoff", lambda state: 0.0)
    environ, codes = UNREACHABLE[state]
    if environ.get("PICTURE_QUEUE_DATABASE_URL"):
        password = stack.db_url.split(":")[2].split("@")[0]
        wrong_url = stack.db_url.replace(f":{password}@", ":wrong@")
        environ = {**environ, "PICTURE_QUEUE_DATABASE_URL": wrong_url}
    for name, command in commands():
        if name in WITHOUT_PROJECT | {"local reset", "doctor"}:
            continue
        if name in NEEDS_DATABASE and state != "a wrong password":
            continue
        arguments = [
            VALID_VALUES.get(parameter.name, queue)
            for parameter in command.params
            if not is_option(parameter) and (parameter.required or parameter.name == "prompt")
        ]
        options = CALLING_OPTIONS.get(name, ())
        # Without an id or a filter, commands for jobs refuse the call before they use the project.
        if name.startswith("jobs ") and not arguments and name != "jobs list":
            arguments = [] if "reasons" in name else [UNKNOWN_ID]
        result = cli(*name.split(), *options, "--", *arguments, input="", **environ)
        assert result.exit_code in codes, (name, result.exit_code, result.stderr)
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (name, result.stderr)
        assert isinstance(result.exception, SystemExit), (name, result.exception)
