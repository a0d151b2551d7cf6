"""Every command prints an error of one line for an invalid value, and never a traceback."""

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
# Valid values for the arguments that do not get the wrong value. All others get the queue's name.
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
# Without these options a command would wait, prompt, start a program, or fail for another reason.
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
    "worker": ("--app", "nowhere_to_be_found:worker"),
}


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command and its full name."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop(0)
        if hasattr(command, "commands"):
            waiting += [(f"{words} {name}".strip(), one) for name, one in command.commands.items()]
        else:
            yield words, command


def takes_text(parameter: Any) -> bool:
    return not getattr(parameter, "is_flag", False)


def is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(name, one, id=name) for name, one in commands()]
)
def test_a_wrong_value_prints_an_error_of_one_line(
    cli: Cli, queue: str, name: str, command: Any
) -> None:
    arguments = {
        p.name: VALID_VALUES.get(p.name, queue) for p in command.params if not is_option(p)
    }
    tried = [p for p in command.params if takes_text(p) and not is_already_tested(name, p)]
    for parameter in tried:
        for value in WRONG_VALUES:
            options, given = [*FIXED_OPTIONS.get(name, ())], dict(arguments)
            if is_option(parameter):
                options.append(f"{max(parameter.opts, key=len)}={value}")
                given.pop("job_ids", None)
            else:
                given[parameter.name] = value
            done = cli(*name.split(), *options, "--", *given.values(), input="")
            expect_one_line(done, f"{name} {parameter.name} {value[:20]!r}")


def is_already_tested(name: str, parameter: Any) -> bool:
    """Return True if a command tested earlier has the same option."""
    key = (parameter.name, parameter.help, is_option(parameter))
    first = next(
        other
        for other, command in commands()
        if key in {(p.name, p.help, is_option(p)) for p in command.params}
    )
    return is_option(parameter) and first != name


def expect_one_line(done: Result, tried: str) -> None:
    assert done.exception is None or isinstance(done.exception, SystemExit), (tried, done.exception)
    if done.exit_code == 0 or (tried.startswith("doctor") and done.stdout):
        return
    known = set(ExitCode) - {ExitCode.FAILED, ExitCode.LOCAL, ExitCode.INTERRUPTED}
    assert done.exit_code in known, (tried, done.stderr)
    expect_plain_message(done, tried)


def expect_plain_message(done: Result, tried: str) -> None:
    """Check that an error is one line without terms of SQL, typer and pydantic."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Using the embedded")]
    assert len(lines) == 1 and lines[0].startswith("error: "), (tried, done.stderr)
    assert len(lines[0]) < 1000, (tried, done.stderr)
    for word in (
        "Input should",
        "validation error",
        "Invalid value",
        "()",
        "An argument is invalid",
    ):
        assert word not in lines[0], (tried, done.stderr)
    assert not set("\x1b\u202e") & set(done.stderr), (tried, done.stderr)


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
    environ, codes = UNREACHABLE[state]
    if environ.get("PICTURE_QUEUE_DATABASE_URL"):
        wrong = stack.db_url.replace(f":{stack.db_url.split(':')[2].split('@')[0]}@", ":wrong@")
        environ = {**environ, "PICTURE_QUEUE_DATABASE_URL": wrong}
    for name, command in commands():
        if name in WITHOUT_PROJECT | {"local reset", "doctor"}:
            continue
        if name in NEEDS_DATABASE and state != "a wrong password":
            continue
        arguments = [
            VALID_VALUES.get(p.name, queue)
            for p in command.params
            if not is_option(p) and (p.required or p.name == "prompt")
        ]
        options = [] if name == "worker" else list(FIXED_OPTIONS.get(name, ()))
        if name.startswith("jobs ") and not arguments and name != "jobs list":
            arguments = [] if "reasons" in name else [UNKNOWN_ID]
        done = cli(*name.split(), *options, "--", *arguments, input="", **environ)
        assert done.exit_code in codes, (name, done.exit_code, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (name, done.stderr)
        assert isinstance(done.exception, SystemExit), (name, done.exception)
