"""Parse what people type: JSON objects, lengths of time, times, settings."""

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
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?")
_LONGEST = 10 * 365 * 86_400  # seconds; no setting of a project is longer
_SHORTEST_WAIT = 0.1  # seconds
_DIGITS = 300  # of a whole number that every reader of JSON can read


def read_text(text: str, what: str) -> str:
    """Return the text itself, that of ``@FILE``, or for ``-`` that of standard input.

    Raises:
        InvalidArgument: It cannot be read.
    """
    if text != "-" and not text.startswith("@"):
        return text
    path = None if text == "-" else text[1:]
    try:
        data = sys.stdin.buffer.read() if path is None else Path(path).read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # the latter: not UTF-8, or no path
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        detail = f"{'standard input' if path is None else path}: {reason}"
        raise InvalidArgument(f"The {what} cannot be read", detail=detail) from error


def read_json(text: str, what: str) -> Any:
    """Read JSON from the argument, from ``@FILE`` or, for ``-``, from standard input.

    Raises:
        InvalidArgument: It cannot be read, or is not JSON.
    """
    content = read_text(text, what)
    try:
        return parse_json(content)
    except ValueError as error:
        raise InvalidArgument(
            f"The {what} is not JSON",
            detail=str(error),
            hint=file_hint(text) or """Write it as '{"path": "a.png"}', or as @FILE""",
        ) from error


def file_hint(text: str) -> str | None:
    """Return how to read a file, if a text that is not JSON names one."""
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
    """Return the value of a JSON text, if every reader of JSON can read it.

    Python's own parser also takes NaN and Infinity, numbers of any size, and half characters.

    Raises:
        ValueError: Says what is wrong with the text.
    """
    try:
        found = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded
        )
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise ValueError(f"it has {half}, which is half of a character") from None
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}, which is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"it has {_short(text)}, which is above 1e308")
    return number


def _bounded(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"it has {_short(text)}, a number of {len(text.lstrip('-'))} digits")
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:20]}…"


def read_object(text: str, what: str = "payload") -> dict[str, Any]:
    """Read a JSON object as `read_json` does.

    Raises:
        InvalidArgument: It cannot be read, is not JSON, or is not an object.
    """
    return expect_object(read_json(text, what), f"The {what}")


def expect_object(value: Any, name: str, hint: str | None = None) -> dict[str, Any]:
    """Return a value that is a JSON object.

    Args:
        value: The value.
        name: Names it in the error.
        hint: Replaces the usual hint of the error.

    Raises:
        InvalidArgument: It is something else.
    """
    if not isinstance(value, dict):
        raise InvalidArgument(
            f"{name} is not a JSON object",
            detail=f"it is {json.dumps(value)[:60]}",
            hint=hint or """Give its values names: '{"value": …}'""",
        )
    return value


def seconds(text: str) -> float:
    """Return a length of time such as 90, 90s, 10m, 2h or 1d in seconds.

    Raises:
        typer.BadParameter: It is not one.
    """
    match = _LENGTH.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(f"{_short(text)!r} is not a time like 90s, 10m, 2h or 1d")
    length = float(match[1]) * _UNITS[match[2] or ""]
    if length > _LONGEST:
        raise typer.BadParameter(f"{_short(text)!r} is above ten years")
    return length


def wait(text: str) -> float:
    """Return a length of time to wait, in seconds.

    Raises:
        typer.BadParameter: It is not one, or too short.
    """
    length = seconds(text)
    if length < _SHORTEST_WAIT:
        raise typer.BadParameter(f"{_short(text)!r} is below {_SHORTEST_WAIT:g}s")
    return length


def moment(text: str) -> datetime:
    """Return a time such as 2030-01-31T08:00; without a zone it is local time.

    Raises:
        typer.BadParameter: It is not one.
    """
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError, OSError) as error:  # the last two: outside the calendar
        raise typer.BadParameter(f"{_short(text)!r} is not a time like 2030-01-31T08:00") from error


def until(length: float | None, at: datetime | None) -> datetime | None:
    """Return the end of something: ``--for`` a length of time, or ``--until`` a time.

    Raises:
        typer.BadParameter: Both are given.
    """
    if length is not None and at is not None:
        raise typer.BadParameter("give one of --for and --until, not both")
    return at if length is None else datetime.now(UTC) + timedelta(seconds=length)


def whole_number(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser of whole numbers within bounds."""

    def parse(text: Any) -> int:
        value = str(text)  # a default is a number already
        if not re.fullmatch(r"[+-]?[0-9]+", value):
            raise typer.BadParameter(f"{_short(value)!r} is not a whole number")
        if len(value) > _DIGITS or not low <= int(value) <= high:
            raise typer.BadParameter(f"{_short(value)} is not {low} to {high}")
        return int(value)

    return parse


def number(text: Any) -> float:
    """Return a finite number.

    Raises:
        typer.BadParameter: It is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{_short(str(text))!r} is not a number")
    return value


def uuid(text: Any) -> UUID:
    """Return an id of a job, a batch, a generation or a user.

    Raises:
        typer.BadParameter: It is not one.
    """
    try:
        return UUID(str(text))
    except ValueError:
        raise typer.BadParameter(f"{_short(str(text))!r} is not an id like {EXAMPLE_ID}") from None


def directory(text: Any) -> Path:
    """Return the path of a directory, which need not exist.

    Raises:
        typer.BadParameter: It is blank, is not a path, or is something else.
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
        raise typer.BadParameter(f"`{_short(str(text))}`: {reason}") from error
    if not stat.S_ISDIR(mode):
        raise typer.BadParameter(f"`{_short(str(text))}` is not a directory")
    return path


def choice(*values: str) -> Callable[[Any], str]:
    """Return a parser that accepts some words only."""

    def parse(text: Any) -> str:
        if text not in values:
            raise typer.BadParameter(f"{_short(str(text))!r} is not one of {', '.join(values)}")
        return str(text)

    return parse


def named_values(pairs: list[str], option: str | None = None) -> dict[str, Any]:
    """Return what is written NAME=VALUE; a value is JSON if it can be read so, else a string.

    Args:
        pairs: What is written.
        option: The option that the error names.

    Raises:
        typer.BadParameter: A pair has no name or no equals sign.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
        try:
            found[name] = parse_json(value)
        except ValueError:
            found[name] = value
    return found


def changes(settings: list[str]) -> dict[str, Any]:
    """Return settings that are written NAME=VALUE; the value ``default`` is None.

    A value of a setting in seconds may have a unit: lease_seconds=5m.

    Raises:
        typer.BadParameter: One is written otherwise.
    """
    found = named_values(settings)
    for name, value in found.items():
        if value == "default":
            found[name] = None
        elif name.endswith("_seconds") and isinstance(value, str):
            try:
                found[name] = seconds(value)
            except typer.BadParameter as error:
                raise typer.BadParameter(error.message, param_hint=name) from error
    return found


@dataclass(frozen=True)
class Rate:
    """A number of starts in a period, in seconds."""

    count: int
    period: float


def rate(text: str) -> Rate:
    """Return a rate such as 10/1m.

    Raises:
        typer.BadParameter: It is not one.
    """
    number, sign, period = (part.strip() for part in text.partition("/"))
    length = period if period[:1].isdecimal() else f"1{period}"
    try:
        if sign and re.fullmatch("[0-9]{1,9}", number):
            return Rate(int(number), seconds(length))
    except typer.BadParameter:
        pass
    raise typer.BadParameter(f"{_short(text)!r} is not a rate like 10/1m")


def expect_filled(value: Any) -> Any:
    """Return a name that is not blank, or several, as the callback of an argument or an option.

    Raises:
        typer.BadParameter: One is blank.
    """
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, str) and not one.strip():
            raise typer.BadParameter(f"{one!r} is blank")
    return value
