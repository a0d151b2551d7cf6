"""A logger that never raises, and whose records contain no text that could forge other records.

Exceptions quote texts of end users, such as prompts, and the process may log with any formatter.
So the records are escaped before a handler gets them.
"""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

from picture_queue._secrets import redact_secrets
from picture_queue._text import describe_error, text_of, traceback_of
from picture_queue._visible import escape_invisible, indent_lines


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that catches the exceptions of the user's filters and handlers.

    For example, a handler that sends log lines to a service may raise while the service is down.

    Args:
        name: Name of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))
        self.logger.addFilter(_escape_record)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Keep the ``extra`` of a call, which a `LoggerAdapter` would replace."""
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log a line; print the exception if that fails, as `logging.Handler` does."""
        try:
            # stacklevel=2: the log record names the line of the caller instead of this line.
            super().log(level, msg, *args, stacklevel=2, **options)
        except Exception:
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()


class Lines(str):
    """An argument of a log record with several lines, such as a traceback.

    It starts on a line of its own, and its lines are indented. All other arguments are written on
    one line.
    """

    __slots__ = ()


class _Argument:
    """An argument of a log record that is escaped when the record is formatted."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return _escape_line(text_of(self._value))

    def __repr__(self) -> str:
        return _escape_line(repr(self._value))


def _escape_record(record: logging.LogRecord) -> bool:
    """Escape the message, the arguments and the traceback of a record; return True to log it."""
    record.msg = indent_lines(escape_invisible(text_of(record.msg)))
    if record.args:
        # The arguments are a mapping if the only argument is one.
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        record.args = tuple(map(_escape_argument, arguments))
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        # A formatter uses this text instead of `exc_info`.
        record.exc_text = _escape_lines(traceback_of(error) or describe_error(error))
    record.is_escaped = True
    return True


def _escape_argument(value: object) -> object:
    if type(value) in (int, float, bool):  # the format may be %d
        return value
    if isinstance(value, Lines):
        return "\n" + _escape_lines(value) if value else ""
    return _escape_line(value) if type(value) is str else _Argument(value)


# Secrets are removed first, since an escape such as \n would hide where a secret begins.


def _escape_line(text: str) -> str:
    return escape_invisible(redact_secrets(text)).replace("\n", "\\n")


def _escape_lines(text: str) -> str:
    return indent_lines("\n" + escape_invisible(redact_secrets(text)))[1:]
