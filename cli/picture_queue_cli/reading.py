"""What people type, as values: JSON objects, lengths of time, moments, settings."""

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from picture_queue.errors import InvalidArgument

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?")


def read_text(text: str, what: str) -> str:
    """Returns the text itself, that of ``@FILE``, or for ``-`` that of standard input.

    Raises:
        InvalidArgument: The file cannot be read.
    """
    if text == "-":
        return sys.stdin.read()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        detail = f"{text[1:]}: {reason}"
        raise InvalidArgument(f"The {what} cannot be read", detail=detail) from error


def read_json(text: str, what: str) -> Any:
    """Reads JSON from the argument, from ``@FILE`` or, for ``-``, from standard input.

    Raises:
        InvalidArgument: It cannot be read, or is not JSON.
    """
    content = read_text(text, what)
    try:
        return json.loads(content)
    except ValueError as error:
        raise InvalidArgument(
            f"The {what} is not JSON",
            detail=str(error),
            hint="""Write it as '{"path": "a.png"}', or as @FILE""",
        ) from error


def read_object(text: str, what: str = "payload") -> dict[str, Any]:
    """Reads a JSON object as `read_json` does.

    Raises:
        InvalidArgument: It cannot be read, is not JSON, or is not an object.
    """
    found = read_json(text, what)
    if not isinstance(found, dict):
        raise InvalidArgument(
            f"The {what} is not a JSON object",
            detail=f"it is {json.dumps(found)[:60]}",
            hint="""Give its values names: '{"value": …}'""",
        )
    return found


def seconds(text: str | None, option: str) -> float | None:
    """Returns a length of time such as 90s, 10m, 2h or 1d in seconds.

    Raises:
        typer.BadParameter: It is none.
    """
    if text is None:
        return None
    match = _LENGTH.fullmatch(text.strip())
    if not match:
        raise typer.BadParameter(
            f"{text!r} is not a time like 90s, 10m, 2h or 1d", param_hint=option
        )
    return float(match[1]) * _UNITS[match[2] or ""]


def moment(text: str | None, option: str) -> datetime | None:
    """Returns a moment such as 2030-01-31T08:00; without a zone it is local time.

    Raises:
        typer.BadParameter: It is none.
    """
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a time like 2030-01-31T08:00", param_hint=option
        ) from error


def until(length: str | None, at: str | None) -> datetime | None:
    """Returns when something is to end: ``--for`` a length of time, or ``--until`` a moment.

    Raises:
        typer.BadParameter: One cannot be read, or both are given.
    """
    if length and at:
        raise typer.BadParameter("give one of --for and --until, not both")
    span = seconds(length, "--for")
    return moment(at, "--until") if span is None else datetime.now(UTC) + timedelta(seconds=span)


def changes(settings: list[str]) -> dict[str, Any]:
    """Returns what is written NAME=VALUE; the value ``default`` is None.

    Raises:
        typer.BadParameter: Something is written otherwise.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"{setting!r} is not NAME=VALUE")
        try:
            found[name] = None if value == "default" else json.loads(value)
        except ValueError:
            found[name] = value
    return found


def rate(text: str | None) -> tuple[int | None, float | None]:
    """Returns a rate such as 10/1m as a number and seconds.

    Raises:
        typer.BadParameter: It is none.
    """
    if text is None:
        return None, None
    number, sign, period = text.partition("/")
    if not sign or not number.strip().isdigit():
        raise typer.BadParameter(f"{text!r} is not a rate like 10/1m", param_hint="--rate")
    length = period if period[:1].isdigit() else f"1{period}"
    return int(number), seconds(length, "--rate")
