"""Parse values of the command line: JSON, durations, times, numbers, ids, settings."""

import json
import math
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import typer

from picture_queue.errors import InvalidArgument

EXAMPLE_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?")
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)\s*(MiB|GiB|MB|GB)", re.IGNORECASE)
_SIZE_UNITS = {"MIB": 2**20, "GIB": 2**30, "MB": 10**6, "GB": 10**9}
_MAX_DURATION = 10 * 365 * 86_400  # seconds; no setting of a project is longer
_MIN_WAIT = 0.1  # seconds
_MAX_DIGITS = 300  # every JSON parser can read a whole number of this length


def read_text(text: str, name: str) -> str:
    """Return a text, or for ``@FILE`` and ``-`` the content of the file or of standard input.

    Args:
        text: The text, ``@FILE`` or ``-``.
        name: The name of the value, for the error.

    Raises:
        InvalidArgument: The file or standard input cannot be read.
    """
    if text != "-" and not text.startswith("@"):
        return text
    path = None if text == "-" else text[1:]
    try:
        data = sys.stdin.buffer.read() if path is None else Path(path).read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not a path
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        detail = f"{'standard input' if path is None else path}: {reason}"
        raise InvalidArgument(f"{name} cannot be read", detail=detail) from error


def read_json(text: str, name: str) -> Any:
    """Read JSON from a text, from ``@FILE`` or, for ``-``, from standard input.

    Raises:
        InvalidArgument: The text cannot be read, or is not JSON.
    """
    content = read_text(text, name)
    try:
        return parse_json(content)
    except ValueError as error:
        raise InvalidArgument(
            f"{name} is not JSON",
            detail=describe_syntax(error),
            hint=file_hint(text) or """Write it as '{"path": "a.png"}', or as @FILE""",
        ) from error


def describe_syntax(error: ValueError) -> str:
    """Describe an error of `parse_json`: the reason, the position, and the text at the position."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    reason = f"{error.msg[:1].lower()}{error.msg[1:]}"
    unparsed = error.doc[error.pos :]
    if not unparsed:
        return f"{reason}, found the end of the text"
    line = f" of line {error.lineno}" if "\n" in error.doc else ""
    return f"{reason}, found {_shorten(unparsed)!r} at column {error.colno}{line}"


def file_hint(text: str) -> str | None:
    """Return a hint to write ``@FILE``, if a text that is not JSON looks like a path."""
    if not re.fullmatch(r"[^\s{}\[\]\"@-][^\n{}\[\]\"]{0,254}", text):
        return None
    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):
        is_file = False
    if is_file:
        return f"`{text}` is a file: to read it, write @{text}"
    return f"To read a file, write @{text}" if re.search(r"[/.]\w+$", text) else None


def parse_json(text: str) -> Any:
    """Parse JSON that every JSON parser can read.

    Python's parser also accepts NaN and Infinity, numbers of any size, and unpaired surrogates.

    Raises:
        ValueError: The text is not JSON, or not readable by all parsers; the message says why.
    """
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_parse_float, parse_int=_parse_int
        )
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        surrogate = ascii(error.object[error.start])[1:-1]
        raise ValueError(f"it has {surrogate}, an unpaired surrogate") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}, which is not a number in JSON")


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"it has {_shorten(text)}, which is above 1e308")
    return number


def _parse_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it has {_shorten(text)}, a number of {len(text.lstrip('-'))} digits")
    return int(text)


def _shorten(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:20]}…"


def read_object(text: str, name: str = "PAYLOAD") -> dict[str, Any]:
    """Read a JSON object as `read_json` does.

    Raises:
        InvalidArgument: The text cannot be read, is not JSON, or is not an object.
    """
    return expect_object(read_json(text, name), name)


def expect_object(value: Any, name: str, hint: str | None = None) -> dict[str, Any]:
    """Check that a value is a JSON object, and return it.

    Args:
        value: The value.
        name: The name of the value, for the error.
        hint: The hint of the error; by default an example of an object.

    Raises:
        InvalidArgument: The value is not an object.
    """
    if not isinstance(value, dict):
        raise InvalidArgument(
            f"{name} is not a JSON object",
            detail=f"it is {json.dumps(value)[:60]}",
            hint=hint or """Write an object: '{"name": "value"}'""",
        )
    return value


def parse_duration(text: str) -> float:
    """Parse a duration such as 90, 90s, 10m, 2h or 1d; return seconds.

    Raises:
        typer.BadParameter: The text is not a duration, or it is too long.
    """
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(f"{_shorten(text)!r} is not a duration like 90s, 10m, 2h or 1d")
    duration = float(match[1]) * _UNITS[match[2] or ""]
    if duration > _MAX_DURATION:
        raise typer.BadParameter(f"{_shorten(text)!r} is above ten years")
    return duration


def parse_wait(text: str) -> float:
    """Parse the duration of a wait or a pause; return seconds.

    Raises:
        typer.BadParameter: The text is not a duration, or it is too short or too long.
    """
    duration = parse_duration(text)
    if duration < _MIN_WAIT:
        raise typer.BadParameter(f"{_shorten(text)!r} is below {_MIN_WAIT:g}s")
    return duration


def parse_time(text: str) -> datetime:
    """Parse a time such as 2030-01-31T08:00; without a UTC offset it is local time.

    Raises:
        typer.BadParameter: The text is not a time.
    """
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo else time.astimezone()
    # OverflowError, OSError: in another time zone, the year is not in the range 1 to 9999.
    except (ValueError, OverflowError, OSError) as error:
        raise typer.BadParameter(
            f"{_shorten(text)!r} is not a time like 2030-01-31T08:00"
        ) from error


def resolve_resume_at(length: float | None, at: datetime | None) -> datetime | None:
    """Return the end of a pause from ``--for`` or ``--until``; None if neither is given.

    Args:
        length: The duration of ``--for``, in seconds.
        at: The time of ``--until``.

    Raises:
        typer.BadParameter: Both are given.
    """
    if length is not None and at is not None:
        raise typer.BadParameter("give either --for or --until, not both")
    return at if length is None else datetime.now(UTC) + timedelta(seconds=length)


def whole_number(minimum: int, maximum: int) -> Callable[[Any], int]:
    """Return a parser of whole numbers within bounds."""

    def parse(text: Any) -> int:
        value = str(text)  # typer also passes the default, which is a number
        if not re.fullmatch(r"[+-]?[0-9]+", value):
            raise typer.BadParameter(f"{_shorten(value)!r} is not a whole number")
        if len(value) > _MAX_DIGITS or not minimum <= int(value) <= maximum:
            raise typer.BadParameter(f"{_shorten(value)} is not between {minimum} and {maximum}")
        return int(value)

    return parse


def parse_size(text: Any) -> int:
    """Parse a number of bytes, such as ``512MiB`` or ``2GB``.

    Raises:
        typer.BadParameter: The text is not a size.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise typer.BadParameter(f"{_shorten(str(text))!r} is not a size such as 512MiB or 2GB")
    return round(float(match[1]) * _SIZE_UNITS[match[2].upper()])


def parse_number(text: Any) -> float:
    """Parse a finite number.

    Raises:
        typer.BadParameter: The text is not a finite number.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{_shorten(str(text))!r} is not a number")
    return value


def parse_uuid(text: Any) -> UUID:
    """Parse the id of a job, a batch, a generation or a user.

    Raises:
        typer.BadParameter: The text is not a uuid.
    """
    try:
        return UUID(str(text))
    except ValueError:
        raise typer.BadParameter(
            f"{_shorten(str(text))!r} is not an id like {EXAMPLE_ID}"
        ) from None


def parse_directory(text: Any) -> Path:
    """Parse the path of a directory, which need not exist.

    Raises:
        typer.BadParameter: The text is blank, is not a path, or is the path of a file.
    """
    path = Path(text)
    if not str(text).strip():
        raise typer.BadParameter(f"{text!r} is blank")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise typer.BadParameter(f"`{_shorten(str(text))}`: {reason}") from error
    if not stat.S_ISDIR(mode):
        raise typer.BadParameter(f"`{_shorten(str(text))}` is not a directory")
    return path


def choice(*values: str) -> Callable[[Any], str]:
    """Return a parser that accepts only these values."""

    def parse(text: Any) -> str:
        if text not in values:
            raise typer.BadParameter(f"{_shorten(str(text))!r} is not one of {', '.join(values)}")
        return str(text)

    return parse


def parse_pairs(pairs: list[str], option: str | None = None) -> dict[str, Any]:
    """Parse NAME=VALUE pairs; a value that is not JSON is a string.

    Args:
        pairs: The pairs.
        option: The option that the error names.

    Raises:
        typer.BadParameter: A pair has no name or no equals sign.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
        try:
            values[name] = parse_json(value)
        except ValueError:
            values[name] = value
    return values


def parse_changes(settings: list[str]) -> dict[str, Any]:
    """Parse changes of settings, written NAME=VALUE; the value ``default`` becomes None.

    The value of a setting in seconds may have a unit: lease_seconds=5m.

    Raises:
        typer.BadParameter: A change has no name or equals sign, is blank, or is not a duration.
    """
    changes = parse_pairs(settings)
    for name, value in changes.items():
        if value == "default":
            changes[name] = None
        elif value == "":
            raise typer.BadParameter("'' is blank; write =default to reset it", param_hint=name)
        elif name.endswith("_seconds") and isinstance(value, str):
            try:
                changes[name] = parse_duration(value)
            except typer.BadParameter as error:
                raise typer.BadParameter(error.message, param_hint=name) from error
    return changes


@dataclass(frozen=True)
class Rate:
    """A number of starts in a period."""

    count: int
    period: float  # seconds


def parse_rate(text: str) -> Rate:
    """Parse a rate such as 10/1m.

    Raises:
        typer.BadParameter: The text is not a rate.
    """
    count, slash, period = (part.strip() for part in text.partition("/"))
    duration = period if period[:1].isdecimal() else f"1{period}"  # 10/m means 10/1m
    try:
        if slash and re.fullmatch("[0-9]{1,9}", count):
            return Rate(int(count), parse_duration(duration))
    except typer.BadParameter:
        pass
    raise typer.BadParameter(f"{_shorten(text)!r} is not a rate like 10/1m")


def expect_filled(value: Any) -> Any:
    """Check that a value, or each value of a list, is not blank, and return it.

    Typer calls this function as the callback of an argument or option.

    Raises:
        typer.BadParameter: A value is blank.
    """
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str) and not item.strip():
            raise typer.BadParameter(f"{item!r} is blank")
    return value
