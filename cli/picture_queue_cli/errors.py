"""Exit codes, and errors as one line.

====  ==================================================================================
code  meaning
====  ==================================================================================
0     done
1     the job failed or was cancelled, or the project answered with an unknown error
2     the command line or a setting is wrong
3     an argument, an input or a payload was refused; nothing was written
4     no such job, generation, picture, model, queue, schedule, batch or limit
5     the key or token is wrong, or may not do that
6     no answer: wrong address, project away, embedded stack not running
7     client and database do not fit together
8     the wait ended before the job did
9     in conflict with what is there: job finished or running, queue draining, port taken,
      a database or a folder that is kept otherwise
10    the embedded stack could not do it: a program is missing, a start failed
130   interrupted by Ctrl-C
====  ==================================================================================
"""

import os
import sys
from contextlib import suppress
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from picture_queue import errors
from picture_queue_cli.commands import check_values
from picture_queue_cli.render import print_error


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


# The first line that fits counts: subclasses stand before their bases.
_CODES: tuple[tuple[type[errors.PictureQueueError], ExitCode], ...] = (
    (errors.SettingsError, ExitCode.USAGE),
    (errors.InvalidArgument, ExitCode.REFUSED),
    (errors.TooLarge, ExitCode.REFUSED),
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

# typer brings click under different names, depending on its version.
_UsageError: Any = typer.BadParameter.__base__


def exit_code(error: errors.PictureQueueError) -> ExitCode:
    """Return the exit code of an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


class Program(TyperGroup):
    """The root command: every expected error is one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: With the exit code of the error.
        """
        try:
            check_values(ctx)
            return super().invoke(ctx)
        except errors.PictureQueueError as error:
            print_error(str(error))
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as error:
            print_error("Interrupted.")
            raise typer.Exit(ExitCode.INTERRUPTED) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program and exit.

        Raises:
            SystemExit: Always.
        """
        _prepare_streams()
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except _UsageError as error:
            # A group without a command has shown its help already.
            if type(error).__name__ != "NoArgsIsHelpError":
                print_error(_usage(error))
            code = ExitCode.USAGE
        except typer.Abort:
            print_error("Nothing was done.")
            code = ExitCode.FAILED
        except BrokenPipeError:  # whoever read our output has seen enough
            _drop_output()
            code = ExitCode.FAILED
        except OSError as error:
            _drop_output()
            place = f": {os.fsdecode(error.filename)}" if error.filename else ""
            print_error(f"{error.strerror or error}{place}.")
            code = ExitCode.FAILED
        sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _prepare_streams() -> None:
    """Replace closed streams, and let the others print every character in some way."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good
        elif mode == "w":
            with suppress(AttributeError, ValueError):  # not a text stream, or closed
                stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Discard output that cannot be written: Python would error about it again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: Any) -> str:
    text = error.format_message()
    if text and text[-1] not in ".?":
        text += "."
    command = error.ctx.command_path if error.ctx else "picture-queue"
    return f"{text} See: {command} --help"
