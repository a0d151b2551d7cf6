"""Parse what people type: JSON objects, lengths of time, times, settings."""

import json
import math
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from picture_queue.errors import InvalidArgument

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?")
_LONGEST = 10 * 365 * 86_400  # seconds; no setting of a project is longer
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
    except (OSError, UnicodeDecodeError) as error:
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
            hint="""Write it as '{"path": "a.png"}', or as @FILE""",
        ) from error


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


def seconds(text: str | None, option: str) -> float | None:
    """Return a length of time such as 90s, 10m, 2h or 1d in seconds.

    Raises:
        typer.BadParameter: It is not one.
    """
    if text is None:
        return None
    match = _LENGTH.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(
            f"{text!r} is not a time like 90s, 10m, 2h or 1d", param_hint=option
        )
    length = float(match[1]) * _UNITS[match[2] or ""]
    if length > _LONGEST:
        raise typer.BadParameter(f"{_short(text)!r} is above ten years", param_hint=option)
    return length


def moment(text: str | None, option: str) -> datetime | None:
    """Return a time such as 2030-01-31T08:00; without a zone it is local time.

    Raises:
        typer.BadParameter: It is not one.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.astimezone()
    except (ValueError, OverflowError, OSError) as error:  # the last two: outside the calendar
        raise typer.BadParameter(
            f"{text!r} is not a time like 2030-01-31T08:00", param_hint=option
        ) from error


def until(length: str | None, at: str | None) -> datetime | None:
    """Return the end of something: ``--for`` a length of time, or ``--until`` a time.

    Raises:
        typer.BadParameter: One cannot be read, or both are given.
    """
    if length is not None and at is not None:
        raise typer.BadParameter("give one of --for and --until, not both")
    span = seconds(length, "--for")
    return moment(at, "--until") if span is None else datetime.now(UTC) + timedelta(seconds=span)


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

    Raises:
        typer.BadParameter: One is written otherwise.
    """
    found = named_values(settings)
    return {name: None if value == "default" else value for name, value in found.items()}


def rate(text: str | None) -> tuple[int | None, float | None]:
    """Return a rate such as 10/1m as a number and seconds.

    Raises:
        typer.BadParameter: It is not one.
    """
    if text is None:
        return None, None
    number, sign, period = (part.strip() for part in text.partition("/"))
    if not sign or not number.isdecimal() or len(number) > 9:
        raise typer.BadParameter(f"{_short(text)!r} is not a rate like 10/1m", param_hint="--rate")
    length = period if period[:1].isdecimal() else f"1{period}"
    return int(number), seconds(length, "--rate")


def expect_filled(param: typer.CallbackParam, value: str | None) -> str | None:
    """Return a name that is not blank, as the callback of an argument or an option.

    Raises:
        typer.BadParameter: It is blank.
    """
    if value is not None and not value.strip():
        option = max(param.opts, key=len)
        hint = option if option[:1] == "-" else (param.metavar or option).upper()
        raise typer.BadParameter(f"{value!r} is blank", param_hint=hint)
    return value
