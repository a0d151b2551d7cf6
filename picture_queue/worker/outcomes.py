"""How an attempt ended, as the worker reports it."""

import re
import traceback
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from pydantic_core import from_json, to_json

#: Longest clean error and internal detail, in characters.
ERROR_LENGTH = 500
DETAIL_LENGTH = 8192
#: Largest result that is sent, in bytes of JSON; the database has its own, smaller limit.
LARGEST_RESULT = 8 * 1024 * 1024

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


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
        delay: Seconds until then.
        at: When instead; neither: after the backoff.
    """

    name: ClassVar[str] = "failed"
    error: str
    detail: str | None = None
    retryable: bool = True
    delay: float | None = None
    at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as `report_jobs` takes it, without the ids."""
        return _given(
            outcome=self.name,
            error=self.error,
            detail=self.detail,
            retryable=self.retryable,
            delay_seconds=self.delay,
            run_at=_instant(self.at),
        )


@dataclass(frozen=True, slots=True)
class Snoozed(Outcome):
    """To be run again later; the attempt is given back.

    Attributes:
        delay: Seconds until then.
        at: When instead.
        pause_key: A limit key that rests for ``delay`` as well.
    """

    name: ClassVar[str] = "snoozed"
    delay: float | None = None
    at: datetime | None = None
    pause_key: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as `report_jobs` takes it, without the ids."""
        return _given(
            outcome=self.name,
            delay_seconds=self.delay,
            run_at=_instant(self.at),
            pause_key=self.pause_key,
        )


@dataclass(frozen=True, slots=True)
class Parked(Outcome):
    """Waits outside of workers, at most ``delay`` seconds; the attempt is kept.

    Attributes:
        delay: Seconds until it is run again to look.
        event: Name of the outside event that wakes it before; None: the id of the job.
    """

    name: ClassVar[str] = "parked"
    delay: float
    event: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as `report_jobs` takes it, without the ids."""
        return _given(outcome=self.name, delay_seconds=self.delay, event=self.event)


@dataclass(frozen=True, slots=True)
class Released(Outcome):
    """Unfinished because the worker stops; the attempt is given back."""

    name: ClassVar[str] = "released"


@dataclass(frozen=True, slots=True)
class Cancelled(Outcome):
    """Stopped because somebody cancelled the job."""

    name: ClassVar[str] = "cancelled"


def _instant(at: datetime | None) -> str | None:
    # A naive time is the worker's, which need not be in the zone of the database's session.
    return None if at is None else (at if at.tzinfo else at.astimezone()).isoformat()


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


# What can be stored


def cleaned_json(value: object) -> Any:
    """Returns a result as plain JSON.

    Raises:
        ValueError: Saying why it cannot be stored.
    """
    try:
        data = to_json(value, inf_nan_mode="null")
    except Exception as error:  # a serializer of the user's own can raise anything
        raise ValueError(f"The result is not JSON: {text_of(error)}") from error
    if _NUL.search(data):
        raise ValueError("The result holds the character U+0000, which a database cannot store")
    if len(data) > LARGEST_RESULT:
        raise ValueError(
            f"The result has {len(data)} bytes, the limit is {LARGEST_RESULT}: "
            "put it into Storage and return its path"
        )
    return from_json(data)


def text_of(error: BaseException) -> str:
    """Returns what an exception says, nothing where that fails."""
    try:
        return str(error)
    except Exception:  # somebody's __str__
        return ""


def clean(text: str, length: int = ERROR_LENGTH) -> str:
    """Makes one line that a database can store of any text."""
    return storable(" ".join(text.split()), length)


def traceback_of(error: BaseException) -> str:
    """Returns the end of a traceback, which is where the cause stands."""
    text = "".join(traceback.format_exception(error)).strip()
    return storable(text[-DETAIL_LENGTH:], DETAIL_LENGTH)


def storable(text: str, length: int) -> str:
    """Makes text that a database can store of any text, and not more of it."""
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= length else text[: length - 1] + "…"
