"""Outcomes of attempts, as the worker reports them.

An outcome has the fields of `report_jobs`, with values that the database accepts. Many outcomes are
reported in one call, so one invalid value would delay all of them.
"""

import numbers
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

#: The maximum wait that the database accepts, in seconds.
MAX_WAIT = 31_536_000.0
#: Earliest and latest time that the database accepts.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9998, 12, 31, 23, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of an attempt."""

    name: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """Return the outcome in the format of `report_jobs`, without the ids."""
        fields: dict[str, Any] = {"outcome": self.name}
        names: tuple[str, ...] = self.__slots__
        for name in names:
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        return fields


@dataclass(frozen=True, slots=True)
class Completed(Outcome):
    """The handler returned; ``result`` is JSON."""

    name: ClassVar[str] = "completed"
    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed(Outcome):
    """The attempt failed, or the job could not be started.

    Attributes:
        error: One line without control characters, for the owner.
        detail: The traceback, for operators.
        retryable: Whether another attempt may succeed.
        delay_seconds: Seconds until the next attempt; see `wait_seconds`.
        run_at: Time of the next attempt, instead of ``delay_seconds``; see `wait_until`. If both
            are None, the backoff of the job applies.
    """

    name: ClassVar[str] = "failed"
    error: str
    detail: str | None = None
    retryable: bool = True
    delay_seconds: float | None = None
    run_at: str | None = None


@dataclass(frozen=True, slots=True)
class Snoozed(Outcome):
    """The job is to be run again later; the attempt does not count.

    Attributes:
        delay_seconds: Seconds until the next run; see `wait_seconds`.
        run_at: Time of the next run, instead of ``delay_seconds``; see `wait_until`.
        pause_key: A limit key that is paused for ``delay_seconds`` as well.
        detail: One line for operators: the reason that the handler gave, or its exception.
    """

    name: ClassVar[str] = "snoozed"
    delay_seconds: float | None = None
    run_at: str | None = None
    pause_key: str | None = None
    detail: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Parked(Outcome):
    """The job waits for an external event without a worker; its attempt number stays the same.

    Attributes:
        delay_seconds: Seconds to wait at most; see `wait_seconds`.
        event: The name of the event; None: the id of the job.
    """

    name: ClassVar[str] = "parked"
    delay_seconds: float
    event: str | None = None


@dataclass(frozen=True, slots=True)
class Released(Outcome):
    """The worker releases a job that has not ended; the attempt does not count."""

    name: ClassVar[str] = "released"


@dataclass(frozen=True, slots=True)
class Cancelled(Outcome):
    """The job was cancelled."""

    name: ClassVar[str] = "cancelled"


# Values that the database accepts


def wait_seconds(value: object) -> float | None:
    """Return a wait that the database accepts: at most a year, in whole milliseconds.

    Args:
        value: Seconds.

    Returns:
        The wait; None if the value is negative, infinite or not a number.
    """
    if not isinstance(value, numbers.Real):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an integer of over 308 digits
        seconds = -1.0 if value < 0 else MAX_WAIT
    # Infinity and NaN are mistakes of the handler, not long waits.
    if not 0 <= seconds < float("inf"):
        return None
    return round(min(seconds, MAX_WAIT), 3)


def wait_until(at: datetime) -> str:
    """Return a time as the database accepts it, from 1970 to 9998.

    Args:
        at: The time. A naive datetime is in the time zone of the worker, which can differ from the
            time zone of the database.
    """
    try:
        instant = at.astimezone(UTC)
    except (OverflowError, ValueError, OSError):  # the year in UTC is not in the range 1 to 9999
        instant = LATEST if at.year > EARLIEST.year else EARLIEST
    return min(max(instant, EARLIEST), LATEST).isoformat()
