"""Exit codes, and errors as one line; with ``--json`` also as a JSON object on standard output.

====  ==================================================================================
code  meaning
====  ==================================================================================
0     done
1     the job failed or was cancelled, or the project answered with an unknown error
2     the command line or a setting is wrong
3     an argument, an input, a payload, or a start beyond a budget was refused; nothing was written
4     no such job, generation, picture, model, rule, queue, schedule, batch, limit or budget
5     the key or token is wrong, or lacks permission
6     no answer: wrong address, project unreachable, embedded stack not running
7     client and database have incompatible versions
8     the job did not finish in time
9     conflict: job finished or running, queue draining, port in use, or a database or folder
      managed by another tool
10    the embedded stack failed: a program is missing, or did not start
130   interrupted by Ctrl-C
====  ==================================================================================
"""

import os
import sys
from contextlib import suppress
from enum import IntEnum
from typing import Any

import typer

from picture_queue import errors
from picture_queue_cli.commands import Group, UsageError, check_values
from picture_queue_cli.render import json_was_printed, print_error, print_json
from picture_queue_cli.translate import label


class ExitCode(IntEnum):
    """The exit codes of the program; see the table of this module."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    NOT_ALLOWED = 5
    NO_ANSWER = 6
    VERSION = 7
    TIMEOUT = 8
    CONFLICT = 9
    LOCAL = 10
    INTERRUPTED = 130


# The first match wins, so each class comes before its base class.
_CODES: tuple[tuple[type[errors.PictureQueueError], ExitCode], ...] = (
    (errors.SettingsError, ExitCode.USAGE),
    (errors.InvalidArgument, ExitCode.REFUSED),
    (errors.TooLarge, ExitCode.REFUSED),
    (errors.LimitExceeded, ExitCode.REFUSED),
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.NotAuthenticated, ExitCode.NOT_ALLOWED),
    (errors.NotAllowed, ExitCode.NOT_ALLOWED),
    (errors.ConnectionFailed, ExitCode.NO_ANSWER),
    (errors.Busy, ExitCode.NO_ANSWER),
    (errors.StackNotRunning, ExitCode.NO_ANSWER),
    (errors.VersionMismatch, ExitCode.VERSION),
    (errors.WaitTimeout, ExitCode.TIMEOUT),
    (errors.Conflict, ExitCode.CONFLICT),
    (errors.InstallationRefused, ExitCode.CONFLICT),
    (errors.StackAlreadyRunning, ExitCode.CONFLICT),
    (errors.PortTaken, ExitCode.CONFLICT),
    (errors.LocalStackError, ExitCode.LOCAL),
    (errors.PictureQueueError, ExitCode.FAILED),
)


def exit_code(error: errors.PictureQueueError) -> ExitCode:
    """Return the exit code of an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


class RootCommand(Group):
    """The root command: every expected error is one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: The command was interrupted.
        """
        try:
            check_values(ctx)
            return super().invoke(ctx)
        # Click would turn KeyboardInterrupt into Abort, which is also raised for the answer "no".
        except KeyboardInterrupt as error:
            print_error("Interrupted.")
            raise typer.Exit(ExitCode.INTERRUPTED) from error

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the program and exit.

        Raises:
            SystemExit: Always.
        """
        _prepare_streams()
        args = arguments[0] if arguments else settings.pop("args", None)
        words = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
        code = self._run(words, settings, as_json)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)

    def _run(self, words: list[str], settings: dict[str, Any], as_json: bool) -> Any:
        try:
            return super().main(words, **{**settings, "standalone_mode": False})
        except UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message(), err=True)
            else:
                _report(_describe_usage_error(error), ExitCode.USAGE, as_json)
            return ExitCode.USAGE
        except errors.PictureQueueError as error:
            _report(str(error), exit_code(error), as_json, error.code)
            return exit_code(error)
        except typer.Abort:
            print_error("Nothing was done.")
        except BrokenPipeError:  # the reader closed the pipe, as `head` does
            _drop_output()
        except OSError as error:
            _drop_output()
            path = f": {os.fsdecode(error.filename)}" if error.filename else ""
            print_error(f"{error.strerror or error}{path}.")
        return ExitCode.FAILED


def _report(text: str, exit_code: ExitCode, as_json: bool, code: str | None = None) -> None:
    """Print an error on standard error.

    With --json, print it also as JSON on standard output, unless a result was printed before.
    """
    print_error(text)
    if as_json and not json_was_printed():
        print_json({"error": text, "code": code, "exit_code": exit_code}, indent=None)


def _prepare_streams() -> None:
    """Open closed streams on the null device; let open streams escape what they cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            null = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - open until the exit
            setattr(sys, name, null)
        elif mode == "w":
            # The stream may be closed, or may not be a text stream.
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Discard output that cannot be written; otherwise Python raises an error again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_usage_error(error: Any) -> str:
    # The classes of click cannot be imported; see `UsageError`.
    class_name, parameter = type(error).__name__, getattr(error, "param", None)
    name = getattr(error, "param_hint", None) or (label(parameter) if parameter else None)
    text = error.message
    if class_name == "MissingParameter":
        name, text = None, f"{name} is missing"
    elif class_name == "BadOptionUsage":
        text = f"{error.option_name} needs a value"
    elif class_name != "BadParameter":
        text = error.format_message()
    text = f"{name}: {text}" if name else text[:1].upper() + text[1:]
    if text[-1] not in ".?":
        text += "."
    command = error.ctx.command_path if error.ctx else "picture-queue"
    return f"{text} See: {command} --help"
