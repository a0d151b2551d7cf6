"""How an attempt can end, as values.

What a handler returns or raises decides:

- a value that is JSON → `Completed`;
- `Snooze`, `Park` or `Cancel`, returned → `Snoozed`, `Parked`, `Cancelled`;
- `PermanentFailure`, raised → `Failed` without another attempt;
- any other exception → `Failed`, with another attempt after the backoff if one is left. Attributes
  of the exception refine that: ``retryable`` (bool), ``retry_after`` (seconds instead of the
  backoff), ``public`` (the text the owner of the job sees instead of ``Type: message``) and
  ``counts`` (False: the job is not at fault, the attempt is given back).
"""

import math
import re
import traceback
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic_core import from_json, to_json

from picture_queue.errors import InvalidArgument

#: Longest clean error and internal detail, in characters.
ERROR_LENGTH = 500
DETAIL_LENGTH = 8192
#: Largest result that is sent, in bytes of JSON; the database has its own, smaller limit.
LARGEST_RESULT = 8 * 1024 * 1024

_SNOOZE_WITHOUT_A_TIME = 10.0  # seconds
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


# What handlers say


@dataclass(frozen=True, slots=True)
class Snooze:
    """Return it to run the job again later; the attempt is given back.

    Args:
        seconds: How much later.

    Raises:
        InvalidArgument: ``seconds`` is negative or not a number.
    """

    seconds: float

    def __post_init__(self) -> None:
        _check_seconds("Snooze", self.seconds)


@dataclass(frozen=True, slots=True)
class Park:
    """Return it to wait for something outside without a worker; the attempt is kept.

    Args:
        seconds: After so long the job is run again to look.

    Raises:
        InvalidArgument: ``seconds`` is negative or not a number.
    """

    seconds: float

    def __post_init__(self) -> None:
        _check_seconds("Park", self.seconds)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Return it to end the job as cancelled."""


class PermanentFailure(Exception):
    """Raise it to fail the job whatever attempts are left.

    Args:
        message: The error the owner of the job sees.
    """

    retryable = False

    @property
    def public(self) -> str:
        """The message alone."""
        return str(self)


# What the worker reports


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    name: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as `report_jobs` takes it, without the ids."""
        return {"outcome": self.name}


@dataclass(frozen=True, slots=True)
class Completed(Outcome):
    """The handler returned; ``result`` is JSON."""

    name: ClassVar[str] = "completed"
    result: Any = None

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as `report_jobs` takes it, without the ids."""
        return {"outcome": self.name, "result": self.result}


@dataclass(frozen=True, slots=True)
class Failed(Outcome):
    """The handler raised.

    Attributes:
        error: One clean line for the owner.
        detail: For operators: the traceback.
        retryable: Whether another attempt may end well.
        delay: Seconds until then, None for the backoff.
    """

    name: ClassVar[str] = "failed"
    error: str
    detail: str | None = None
    retryable: bool = True
    delay: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as `report_jobs` takes it, without the ids."""
        return {
            "outcome": self.name,
            "error": self.error,
            "detail": self.detail,
            "retryable": self.retryable,
            "delay_seconds": self.delay,
        }


@dataclass(frozen=True, slots=True)
class _Later(Outcome):
    delay: float

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as `report_jobs` takes it, without the ids."""
        return {"outcome": self.name, "delay_seconds": self.delay}


@dataclass(frozen=True, slots=True)
class Snoozed(_Later):
    """To be run again after ``delay`` seconds; the attempt is given back."""

    name: ClassVar[str] = "snoozed"


@dataclass(frozen=True, slots=True)
class Parked(_Later):
    """Waits outside of workers, at most ``delay`` seconds; the attempt is kept."""

    name: ClassVar[str] = "parked"


@dataclass(frozen=True, slots=True)
class Released(Outcome):
    """Unfinished because the worker stops; the attempt is given back."""

    name: ClassVar[str] = "released"


@dataclass(frozen=True, slots=True)
class Cancelled(Outcome):
    """Stopped because somebody cancelled the job."""

    name: ClassVar[str] = "cancelled"


# From one to the other


def from_value(value: object) -> Outcome:
    """Returns the outcome a handler's return value asks for."""
    match value:
        case None:
            return Completed()
        case Snooze(seconds):
            return Snoozed(seconds)
        case Park(seconds):
            return Parked(seconds)
        case Cancel():
            return Cancelled()
    try:
        data = to_json(value, inf_nan_mode="null")
    except Exception as error:  # a serializer of the user's own can raise anything
        return _unusable(f"The result is not JSON: {_text(error)}")
    if _NUL.search(data):
        return _unusable("The result holds the character U+0000, which a database cannot store")
    if len(data) > LARGEST_RESULT:
        return _unusable(
            f"The result has {len(data)} bytes, the limit is {LARGEST_RESULT}: "
            "put it into Storage and return its path"
        )
    return Completed(from_json(data))


def from_error(error: BaseException) -> Outcome:
    """Returns the outcome an exception of a handler asks for."""
    cause = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    delay = _seconds(getattr(cause, "retry_after", None))
    if getattr(cause, "counts", None) is False:
        return Snoozed(_SNOOZE_WITHOUT_A_TIME if delay is None else delay)
    public = getattr(cause, "public", None)
    return Failed(
        clean(public if isinstance(public, str) and public else _named(cause)),
        traceback_of(error),
        getattr(cause, "retryable", None) is not False,
        delay,
    )


def clean(text: str, length: int = ERROR_LENGTH) -> str:
    """Makes one line that a database can store of any text."""
    return _storable(" ".join(text.split()), length)


def traceback_of(error: BaseException) -> str:
    """Returns the end of a traceback, which is where the cause stands."""
    text = "".join(traceback.format_exception(error)).strip()
    return _storable(text[-DETAIL_LENGTH:], DETAIL_LENGTH)


def _storable(text: str, length: int) -> str:
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= length else text[: length - 1] + "…"


def _named(error: BaseException) -> str:
    text, kind = _text(error), type(error).__name__
    return f"{kind}: {text}" if text else kind


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # somebody's __str__
        return ""


def _unusable(why: str) -> Failed:
    return Failed(clean(why), retryable=False)


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    return None


def _check_seconds(name: str, seconds: object) -> None:
    if _seconds(seconds) is None:
        raise InvalidArgument(f"{name} takes seconds, 0 or more", detail=f"seconds is {seconds!r}")
