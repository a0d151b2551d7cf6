"""Expected errors: one line on standard error and a documented exit code."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from picture_queue import errors
from picture_queue_cli import errors as cli_errors
from picture_queue_cli.app import app
from picture_queue_cli.errors import ExitCode, RootCommand, exit_code
from picture_queue_cli.translate import COMMANDS, translate_error

ROOT = Path(__file__).parents[2]
#: The exit code of each exception class.
CODES = {
    errors.SettingsError: 2,
    errors.InvalidArgument: 3,
    errors.InvalidInput: 3,
    errors.InvalidCron: 3,
    errors.DependencyCycle: 3,
    errors.TooLarge: 3,
    errors.LimitExceeded: 3,
    errors.TooManyGenerations: 3,
    errors.BudgetExceeded: 3,
    errors.NotEnoughCredits: 3,
    errors.NotFound: 4,
    errors.JobNotFound: 4,
    errors.GenerationNotFound: 4,
    errors.UnknownModel: 4,
    errors.QueueNotFound: 4,
    errors.DependencyNotFound: 4,
    errors.ScheduleNotFound: 4,
    errors.BatchNotFound: 4,
    errors.LimitNotFound: 4,
    errors.RuleNotFound: 4,
    errors.BudgetNotFound: 4,
    errors.NotAuthenticated: 5,
    errors.AuthenticationFailed: 5,
    errors.NotAllowed: 5,
    errors.ConnectionFailed: 6,
    errors.Busy: 6,
    errors.StackNotRunning: 6,
    errors.VersionMismatch: 7,
    errors.NotInstalled: 7,
    errors.DatabaseTooOld: 7,
    errors.ClientTooOld: 7,
    errors.WaitTimeout: 8,
    errors.Conflict: 9,
    errors.StaleLease: 9,
    errors.JobFinished: 9,
    errors.JobRunning: 9,
    errors.QueueDraining: 9,
    errors.InstallationRefused: 9,
    errors.StackAlreadyRunning: 9,
    errors.PortTaken: 9,
    errors.LocalStackError: 10,
    errors.MissingProgram: 10,
    errors.PictureQueueError: 1,
    errors.ServerError: 1,
    errors.UnreadableAnswer: 1,
    errors.JobNotCompleted: 1,
    errors.JobFailed: 1,
    errors.JobCancelled: 1,
    errors.WorkerStuck: 1,
    errors.MigrationFailed: 1,
}


def failing_program(error: BaseException) -> typer.Typer:
    """Return a program whose only command raises an error."""
    program = typer.Typer(cls=RootCommand)

    @program.callback()
    def root() -> None:
        """Make the program a group of commands."""

    @program.command()
    def fail() -> None:
        raise error

    return program


def test_every_error_class_has_an_exit_code() -> None:
    error_classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.PictureQueueError)
    }
    assert error_classes == CODES.keys()


@pytest.mark.parametrize("error_class", CODES, ids=lambda error_class: error_class.__name__)
def test_each_error_exits_with_its_code(error_class: type[errors.PictureQueueError]) -> None:
    # `__new__` skips the constructor: some need more than a message, and only the class matters.
    assert exit_code(error_class.__new__(error_class)) == CODES[error_class]


@pytest.mark.parametrize("document", [cli_errors.__doc__, (ROOT / "docs" / "cli.md").read_text()])
def test_exit_codes_are_documented(document: str) -> None:
    codes = {int(code) for code in re.findall(r"^\|? ?(\d+) +\|? *\w", document, re.MULTILINE)}
    assert codes == set(ExitCode)


def test_an_error_is_printed_as_one_line_with_a_hint() -> None:
    error = errors.PortTaken("Port 1 is\ntaken", detail="by [red]x", hint="Take another")
    result = CliRunner().invoke(failing_program(error), ["fail"])
    assert (result.exit_code, result.stdout) == (9, "")
    assert result.stderr == "error: Port 1 is taken: by [red]x. Take another.\n"


def test_a_long_error_is_printed_as_one_line() -> None:
    result = CliRunner().invoke(failing_program(errors.TooLarge("x" * 500)), ["fail"])
    assert result.stderr == f"error: X{'x' * 499}.\n"


def test_ctrl_c_exits_without_a_traceback() -> None:
    result = CliRunner().invoke(failing_program(KeyboardInterrupt()), ["fail"])
    assert (result.exit_code, result.stderr) == (130, "error: Interrupted.\n")


def test_an_unexpected_exception_is_not_caught() -> None:
    result = CliRunner().invoke(failing_program(ZeroDivisionError("oops")), ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["jbos"], "No such command 'jbos'. Did you mean 'jobs'?"),
        (["jobs", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["jobs", "list", "--nope"], "No such option: --nope"),
        (["jobs", "list", "--limit", "0"], "--limit"),
        (["jobs", "list", "--status", "odd"], "--status"),
        (["jobs", "show", "no-uuid"], "JOB_ID"),
        (["generate"], "PROMPT is missing."),
        (["jobs", "list", "--tag"], "--tag needs a value."),
        (["jobs", "list", "--tag", "a", "--tag", "b"], "--tag: given 2 times"),
        (["jobs", "reasons", "--status", "pending"], "--status: pending jobs have not failed"),
        (["jobs", "retry", "--hold", "parked"], "--hold: parked jobs have not finished"),
        (["generate", "x", "--input", "seed"], "'seed' is not NAME=VALUE"),
        (["generate", "x", "--out", "/dev/null"], "--out"),
        (["enqueue", "x", "--delay", "soon"], "'soon' is not a duration like 90s"),
        (["enqueue", "x", "--at", "noon"], "'noon' is not a time like 2030"),
        (["enqueue", "x", "--at", "2030-01-01", "--delay", "1h"], "not both"),
        (["worker", "--concurrency", "0"], "--concurrency"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_is_printed_as_one_line(args: list[str], expected: str) -> None:
    result = CliRunner().invoke(app, args, prog_name="picture-queue")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert re.search(r"See: picture-queue[\w -]* --help\n$", result.stderr)


def test_a_missing_local_extra_is_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "picture_queue.local.stack", None)
    for args in (["demo"], ["local", "start"], ["local", "status"]):
        result = CliRunner().invoke(app, args)
        assert (result.exit_code, result.stdout) == (10, "")
        assert result.stderr.count("\n") == 1
        assert "pip install 'picture-queue[local]'" in result.stderr


def test_running_without_a_command_prints_the_help() -> None:
    result = CliRunner().invoke(app, [], prog_name="picture-queue")
    assert result.exit_code == 2
    assert "Usage: picture-queue" in result.output
    assert "error" not in result.output


# Only applications call these functions, so they have no command.
NO_COMMANDS = {"list_generations", "schedule_maintenance"}


def test_every_function_named_in_an_sql_message_has_a_command() -> None:
    sql = "".join(file.read_text() for file in (ROOT / "supabase" / "schemas").glob("*.sql"))
    public_functions = set(re.findall(r"create function public\.(\w+)", sql))
    literals = re.findall(r"'((?:[^'\n]|'')*)'", re.sub(r"--.*", "", sql))
    names = {name for text in literals for name in re.findall(r"\b([a-z_]+)\(\)", text)}
    named_functions = names & public_functions
    assert len(named_functions) > 8
    assert named_functions <= COMMANDS.keys() | NO_COMMANDS


def test_every_command_in_the_translation_table_exists() -> None:
    root = typer.main.get_command(app)
    for words in COMMANDS.values():
        command: Any = root
        for word in words.split():
            command = command.commands[word]


@pytest.mark.parametrize(
    ("command", "error", "expected"),
    [
        (
            ["enqueue"],
            errors.InvalidArgument(
                "An argument is invalid",
                detail="options.timeout_seconds is 0.0, not 0.001 to 31536000",
                hint="Names consist of letters, digits and _ . -",
            ),
            "--timeout is 0.0, not 0.001 to 31536000.",
        ),
        (
            ["enqueue"],
            errors.InvalidArgument("An argument is invalid", detail='queue is "a b"'),
            '--queue is "a b". Begin with a letter or digit; '
            "use at most 63 letters, digits and _ . -.",
        ),
        (
            ["enqueue"],  # The database truncates the value after 100 characters.
            errors.InvalidArgument("An argument is invalid", detail='job_type is "a\\"' + "b" * 95),
            'JOB_TYPE is "a\\"' + "b" * 95 + ". Begin with a letter or digit; use at most 128 "
            "letters, digits and _ . - :.",
        ),
        (
            ["queues", "set"],
            errors.InvalidArgument(
                "An argument is invalid",
                detail="queue is 'a''b'",
                hint="Names consist of letters, digits and _ . -",
            ),
            "QUEUE is 'a''b'. Begin with a letter or digit; "
            "use at most 63 letters, digits and _ . -.",
        ),
        (
            ["schedules", "set"],
            errors.InvalidArgument(
                "An argument is invalid",
                detail="every_seconds is 0, not 1 to 31536000",
                hint="Pass cron or every_seconds; optionally timezone, missed and paused",
            ),
            "--every is 0, not 1 to 31536000.",
        ),
        (
            ["limits", "set"],
            errors.InvalidArgument(
                "An argument is invalid",
                detail="key is 'a\nb'",
                hint="pause_key() stops all starts; delete_limit() ends a limit",
            ),
            "KEY is 'a b'. Use 1 to 200 characters without control characters.",
        ),
        (
            ["worker"],
            errors.InvalidArgument(
                "An argument is invalid",
                detail='worker is "a\\nb", not 1 to 200 characters without line breaks',
            ),
            '--name is "a\\nb", not 1 to 200 characters without line breaks.',
        ),
        (
            ["batches", "enqueue"],
            errors.InvalidArgument("An argument is invalid", detail="jobs[3]: job_type is null"),
            "Item 4 of the list: job_type is null.",
        ),
        (
            ["batches", "enqueue"],
            errors.InvalidArgument(
                "An argument is invalid", detail="callback: job_type is missing"
            ),
            "--callback: job_type is missing.",
        ),
        (
            ["generate"],
            errors.InvalidInput("The input does not fit the model", detail="input.seed is -1"),
            "--input seed is -1.",
        ),
        (
            ["queues", "pause"],
            errors.QueueNotFound(
                "No such queue",
                detail="queue is 'x'",
                hint="list_queues() shows the existing queues",
            ),
            "No such queue: QUEUE is 'x'. `picture-queue queues list` shows the existing queues.",
        ),
        (
            ["jobs", "list"],
            errors.UnreadableAnswer("The answer of list_jobs cannot be read", detail="pydantic"),
            "This version cannot read the project's answer. See: picture-queue doctor.",
        ),
        (
            ["worker"],
            errors.SettingsError("lease is 0.5", hint="Choose 1 to 86400"),
            "--lease is 0.5. Choose 1 to 86400.",
        ),
    ],
)
def test_an_error_names_commands_and_options_instead_of_sql(
    command: list[str], error: errors.PictureQueueError, expected: str
) -> None:
    click_command: Any = typer.main.get_command(app)
    for word in command:
        click_command = click_command.commands[word]
    context = typer.Context(click_command)
    translate_error(error, context)
    assert str(error) == expected
