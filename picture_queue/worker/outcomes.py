"""The ends of attempts, as the worker reports them.

The fields of an outcome are JSON that the database accepts, from the moment it is made. Outcomes
are reported many in one call, so one that could not be encoded there would hold up all others.
"""

import numbers
import re
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, ClassVar

from pydantic_core import from_json, to_json

#: Longest clean error and internal detail, in characters.
ERROR_LENGTH = 500
DETAIL_LENGTH = 8192
#: Largest result that is sent, in bytes of JSON; the database has its own, smaller limit.
LARGEST_RESULT = 8 * 1024 * 1024
#: Most levels of a result, and most digits of a number in it, that every reader of JSON can read.
DEEPEST_RESULT = 100
LONGEST_NUMBER = 308
#: Longest wait that the database accepts, in seconds.
LONGEST_WAIT = 31_536_000.0
#: Times that the database accepts.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9998, 12, 31, 23, 59, tzinfo=UTC)

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (LONGEST_NUMBER + 1))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt."""

    name: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as `report_jobs` takes it, without the ids."""
        return {"outcome": self.name}


@dataclass(frozen=True, slots=True)
class Completed(Outcome):
    """The handler returned; ``result`` is JSON."""

    name: ClassVar[str] = "completed"
    result: Any = None

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as `report_jobs` takes it, without the ids."""
        return {"outcome": self.name, "result": self.result}


@dataclass(frozen=True, slots=True)
class Failed(Outcome):
    """The handler raised.

    Attributes:
        error: One clean line for the owner.
        detail: For operators: the traceback.
        retryable: Whether another attempt may end well.
        delay: Seconds until then; see `wait_seconds`.
        at: Time of the next attempt instead; see `wait_until`. Neither: after the backoff.
    """

    name: ClassVar[str] = "failed"
    error: str
    detail: str | None = None
    retryable: bool = True
    delay: float | None = None
    at: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as `report_jobs` takes it, without the ids."""
        return _given(
            outcome=self.name,
            error=self.error,
            detail=self.detail,
            retryable=self.retryable,
            delay_seconds=self.delay,
            run_at=self.at,
        )


@dataclass(frozen=True, slots=True)
class Snoozed(Outcome):
    """To be run again later; the attempt is given back.

    Attributes:
        delay: Seconds until then; see `wait_seconds`.
        at: Time of the next run instead; see `wait_until`.
        pause_key: A limit key that rests for ``delay`` as well.
        reason: One clean line for operators, where an exception was the reason.
    """

    name: ClassVar[str] = "snoozed"
    delay: float | None = None
    at: str | None = None
    pause_key: str | None = None
    reason: str | None = field(default=None, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as `report_jobs` takes it, without the ids."""
        return _given(
            outcome=self.name,
            delay_seconds=self.delay,
            run_at=self.at,
            pause_key=self.pause_key,
            detail=self.reason,
        )


@dataclass(frozen=True, slots=True)
class Parked(Outcome):
    """The job waits outside of workers, at most ``delay`` seconds; the attempt is kept.

    Attributes:
        delay: Seconds until it is run again to look; see `wait_seconds`.
        event: Name of the outside event that wakes it before; None: the id of the job.
    """

    name: ClassVar[str] = "parked"
    delay: float | None
    event: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as `report_jobs` takes it, without the ids."""
        return _given(outcome=self.name, delay_seconds=self.delay, event=self.event)


@dataclass(frozen=True, slots=True)
class Released(Outcome):
    """Unfinished because the worker stops; the attempt is given back."""

    name: ClassVar[str] = "released"


@dataclass(frozen=True, slots=True)
class Cancelled(Outcome):
    """Stopped because somebody cancelled the job."""

    name: ClassVar[str] = "cancelled"


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


# What can be stored


def cleaned_json(value: object) -> Any:
    """Return a result as plain JSON.

    Raises:
        ValueError: Saying why it cannot be stored.
    """
    try:
        data = to_json(value, inf_nan_mode="null")
    except BaseException as error:  # a serializer of the user's own can raise anything
        raise ValueError(f"The result is not JSON: {text_of(error)}") from error
    if len(data) > LARGEST_RESULT:
        raise ValueError(
            f"The result has {len(data)} bytes, the limit is {LARGEST_RESULT}: "
            "put it into Storage and return its path"
        )
    # The first look is quick; the second took seconds for a few megabytes of text.
    if b"\\u0000" in data and _NUL.search(data):
        raise ValueError("The result holds the character U+0000, which a database cannot store")
    _check_readable(data)
    return from_json(data)


def _check_readable(data: bytes) -> None:
    """Refuse JSON that could be stored and then not be read, nor any list of jobs with it."""
    # Few results have so many brackets or digits that they must be looked at.
    if data.count(b"[") + data.count(b"{") <= DEEPEST_RESULT and not _LONG_NUMBER.search(data):
        return
    bare = _STRING.sub(b"", data)
    if _LONG_NUMBER.search(bare):
        raise ValueError(
            f"The result has a number of over {LONGEST_NUMBER} digits: return it as text"
        )
    levels = accumulate(1 if byte in b"[{" else -1 for byte in bare if byte in b"[]{}")
    if max(levels, default=0) > DEEPEST_RESULT:
        raise ValueError(f"The result is nested deeper than {DEEPEST_RESULT} levels")


def wait_seconds(value: object) -> float | None:
    """Return a wait that the database accepts: at most a year, in milliseconds.

    Args:
        value: Seconds, as a handler or an exception names them.

    Returns:
        None for what is negative, infinite or no number.
    """
    if not isinstance(value, numbers.Real):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an integer of over 308 digits
        seconds = -1.0 if value < 0 else LONGEST_WAIT
    # Infinity and NaN are no waits, but mistakes.
    if not 0 <= seconds < float("inf"):
        return None
    return round(min(seconds, LONGEST_WAIT), 3)


def wait_until(at: datetime) -> str:
    """Return a time as the database accepts it, from 1970 to 9998.

    Args:
        at: A naive time is one of the worker's zone, which need not be that of the database.
    """
    try:
        instant = at.astimezone(UTC)
    except (OverflowError, ValueError, OSError):  # its zone moves it out of the years 1 to 9999
        instant = LATEST if at.year > EARLIEST.year else EARLIEST
    return min(max(instant, EARLIEST), LATEST).isoformat()


def text_of(error: BaseException) -> str:
    """Return what an exception says, nothing where that fails."""
    try:
        return str(error)
    except BaseException:  # somebody's __str__
        return ""


def describe(error: BaseException) -> str:
    """Return the type of an exception and what it says."""
    text = text_of(error)
    try:
        kind = type(error).__name__
    except BaseException:  # a property of its metaclass
        kind = "Exception"
    return f"{kind}: {text}" if text else kind


def clean(text: str, length: int = ERROR_LENGTH) -> str:
    """Make one line that a database can store and a terminal can show of any text."""
    return storable(_CONTROL.sub("\ufffd", " ".join(text.split())), length)


def traceback_of(error: BaseException) -> str | None:
    """Return the end of a traceback, which is where the cause stands; None if it has none."""
    try:
        if error.__traceback__ is None:
            return None
        text = "".join(traceback.format_exception(error)).strip()
    except BaseException:  # a property of the exception's own class
        return None
    return storable(text[-DETAIL_LENGTH:], DETAIL_LENGTH)


def storable(text: str, length: int) -> str:
    """Make text that a database can store of any text, and not more of it."""
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= length else text[: length - 1] + "…"
