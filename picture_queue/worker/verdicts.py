"""What a handler decides about its job, returned or raised, and what becomes of it.

- a value that is JSON → `Completed`;
- a `Verdict` → what it says: run it later (`Snooze`), try again (`Retry`), everybody wait
  (`RateLimited`), wait for something outside (`Park`), end it (`Cancel`);
- `PermanentFailure` → `Failed` without another attempt;
- any other exception → `Failed`, with another attempt after the backoff if one is left. Attributes
  of the exception refine that: ``retryable`` (bool), ``retry_after`` (seconds instead of the
  backoff), ``public`` (the text the owner of the job sees instead of ``Type: message``), ``counts``
  (False: the job is not at fault, the attempt is given back) and, with that, ``pause_key`` (a limit
  key that rests for ``retry_after`` seconds).
"""

import math
from dataclasses import dataclass
from datetime import datetime

from picture_queue.errors import InvalidArgument
from picture_queue.worker.outcomes import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Parked,
    Snoozed,
    clean,
    cleaned_json,
    text_of,
    traceback_of,
)

_SNOOZE_WITHOUT_A_TIME = 10.0  # seconds


class Verdict(Exception):
    """Return it, or raise it from wherever the handler finds out."""

    def outcome(self, queue: str) -> Outcome:
        """Returns what is reported of a job of that queue."""
        raise NotImplementedError

    def __str__(self) -> str:
        return repr(self)


@dataclass(eq=False)
class Snooze(Verdict):
    """Runs the job again later; the attempt is given back.

    Args:
        seconds: How much later.
        until: Or when, instead.

    Raises:
        InvalidArgument: Not one of them is given, or it is no time.
    """

    seconds: float | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        _check_one("Snooze", "until", self.seconds, self.until)

    def outcome(self, queue: str) -> Outcome:
        """Returns what is reported of a job of that queue."""
        return Snoozed(self.seconds, self.until)


@dataclass(eq=False)
class Retry(Verdict):
    """Ends the attempt as failed; the next one, if one is left, comes when it says.

    Args:
        seconds: Time to the next attempt.
        at: Or when, instead. Neither: after the backoff.
        reason: The error the owner of the job sees.

    Raises:
        InvalidArgument: Both are given, or it is no time.
    """

    seconds: float | None = None
    at: datetime | None = None
    reason: str = "The handler asked for another attempt"

    def __post_init__(self) -> None:
        if self.seconds is not None or self.at is not None:
            _check_one("Retry", "at", self.seconds, self.at)

    def outcome(self, queue: str) -> Outcome:
        """Returns what is reported of a job of that queue."""
        # Raised, it has a story to tell: where, and from which exception.
        detail = traceback_of(self) if self.__traceback__ else None
        return Failed(clean(self.reason), detail, delay=self.seconds, at=self.at)


@dataclass(eq=False)
class RateLimited(Verdict):
    """Somebody outside said how long to leave them alone; the attempt is given back.

    No job under the key starts for so long.

    Args:
        seconds: How long, such as the ``Retry-After`` of an answer 429.
        key: The limit key that rests; by default ``queue:<the job's queue>``, the whole queue.

    Raises:
        InvalidArgument: ``seconds`` is negative or not a number, or the key has not 1 to 200
            characters.
    """

    seconds: float
    key: str | None = None

    def __post_init__(self) -> None:
        _check_seconds("RateLimited", self.seconds)
        _check_name("key", self.key)

    def outcome(self, queue: str) -> Outcome:
        """Returns what is reported of a job of that queue."""
        return Snoozed(self.seconds, pause_key=self.key or f"queue:{queue}")


@dataclass(eq=False)
class Park(Verdict):
    """Waits for something outside without a worker; the attempt is kept.

    Args:
        seconds: After so long the job is run again to look.
        event: Name of the outside event that wakes it before; by default the id of the job. What
            came with the event is the context's ``event``.

    Raises:
        InvalidArgument: ``seconds`` is negative or not a number, or the name has not 1 to 200
            characters.
    """

    seconds: float
    event: str | None = None

    def __post_init__(self) -> None:
        _check_seconds("Park", self.seconds)
        _check_name("event", self.event)

    def outcome(self, queue: str) -> Outcome:
        """Returns what is reported of a job of that queue."""
        return Parked(self.seconds, event=self.event)


@dataclass(eq=False)
class Cancel(Verdict):
    """Ends the job as cancelled."""

    def outcome(self, queue: str) -> Outcome:
        """Returns what is reported of a job of that queue."""
        return Cancelled()


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


def from_value(value: object, queue: str) -> Outcome:
    """Returns the outcome a handler's return value asks for.

    Args:
        value: What it returned.
        queue: The queue of its job.
    """
    if isinstance(value, Verdict | PermanentFailure):
        return from_error(value, queue)
    try:
        return Completed(None if value is None else cleaned_json(value))
    except ValueError as error:
        return Failed(clean(str(error)), retryable=False)


def from_error(error: BaseException, queue: str) -> Outcome:
    """Returns the outcome an exception of a handler asks for.

    Args:
        error: What it raised.
        queue: The queue of its job.
    """
    cause = cause_of(error)
    if isinstance(cause, Verdict):
        return cause.outcome(queue)
    delay = _seconds(getattr(cause, "retry_after", None))
    if getattr(cause, "counts", None) is False:
        key = getattr(cause, "pause_key", None)
        return Snoozed(
            _SNOOZE_WITHOUT_A_TIME if delay is None else delay,
            pause_key=key if isinstance(key, str) else None,
        )
    public = getattr(cause, "public", None)
    return Failed(
        clean(public if isinstance(public, str) and public else _named(cause)),
        traceback_of(error),
        getattr(cause, "retryable", None) is not False,
        delay,
    )


def cause_of(error: BaseException) -> BaseException:
    """Returns what was raised, out of the groups that task groups put around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _named(error: BaseException) -> str:
    text, kind = text_of(error), type(error).__name__
    return f"{kind}: {text}" if text else kind


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    return None


def _check_seconds(name: str, seconds: object) -> None:
    if _seconds(seconds) is None:
        raise InvalidArgument(f"{name} takes seconds, 0 or more", detail=f"seconds is {seconds!r}")


def _check_one(name: str, other: str, seconds: object, at: object) -> None:
    """Refuses what is not either seconds or a time."""
    if at is None:
        _check_seconds(name, seconds)
    elif seconds is not None:
        raise InvalidArgument(f"{name} takes seconds or {other}, not both")
    elif not isinstance(at, datetime):
        raise InvalidArgument(f"{name} takes a datetime", detail=f"{other} is {at!r}")


def _check_name(name: str, value: str | None) -> None:
    if value is not None and not 1 <= len(value) <= 200:
        raise InvalidArgument(f"A name has 1 to 200 characters: {name} has {len(value)}")
