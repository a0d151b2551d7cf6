"""Decisions of handlers about their jobs, returned or raised, and their outcomes.

- a value that is JSON → `Completed`;
- a `Verdict` → its outcome: run it later (`Snooze`), try again (`Retry`), pause the queue
  (`RateLimited`), wait for an external event (`Park`), end it (`Cancel`);
- `PermanentFailure` → `Failed` without another attempt;
- any other exception → `Failed`, with another attempt after the backoff if one is left. Attributes
  of the exception refine this: ``retryable`` (bool), ``retry_after`` (seconds instead of the
  backoff), ``owner_message`` (the text the owner of the job sees instead of ``Type: message``),
  ``uses_attempt`` (False: the job is not at fault, so the attempt is not counted) and, if
  ``uses_attempt`` is False, ``pause_key`` (a limit key that is paused for ``retry_after`` seconds).

A wait of more than a year is shortened to a year.
"""

import copyreg
import inspect
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from picture_queue._json import plain_result
from picture_queue._runtime.tasks import ExitOfTask
from picture_queue._text import clean_line, describe_error, text_of, traceback_of
from picture_queue.errors import InvalidArgument
from picture_queue.worker.outcomes import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Parked,
    Snoozed,
    wait_seconds,
    wait_until,
)

#: Largest result that is sent, in bytes of JSON; the database has a smaller limit.
MAX_RESULT_SIZE = 8 * 1024 * 1024

_NO_REASON = "The handler asked for another attempt"
_DEFAULT_SNOOZE = 10.0  # seconds
_MAX_GROUP_DEPTH = 100
_MAX_NAME_LENGTH = 200  # characters of an event or a limit key
# Characters that the name of an event or a limit key must not have.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Verdict(Exception):
    """Decision about a job. A handler returns it, or raises it from any depth.

    Raises:
        InvalidArgument: A number of seconds is negative or not a number; both or neither of two
            alternative times are given; or a name does not have 1 to 200 characters, or has a
            control character.
    """

    def __post_init__(self) -> None:
        self.outcome("")  # validates the arguments when the verdict is created

    def outcome(self, queue: str) -> Outcome:
        """Return the outcome of a job of a queue.

        Raises:
            InvalidArgument: A field is invalid; see the class.
        """
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields too: `Exception` drops keyword arguments between processes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return repr(self)


@dataclass(eq=False)
class Snooze(Verdict):
    """Run the job again later; the attempt is not counted.

    Args:
        seconds: Seconds until the next run.
        until: The time of the next run, instead of ``seconds``.
        reason: The reason for operators: a text or an exception.
    """

    seconds: float | None = None
    until: datetime | None = None
    reason: str | BaseException | None = None

    def outcome(self, queue: str) -> Outcome:
        delay, at = _parse_wait("Snooze", self.seconds, "until", self.until)
        return Snoozed(delay, at, detail=_clean_reason(self.reason))


@dataclass(eq=False)
class Retry(Verdict):
    """End the attempt as failed, and set the time of the next one, if one is left.

    Without ``seconds`` and ``at`` the next attempt starts after the backoff.

    Args:
        seconds: Seconds until the next attempt.
        at: The time of the next attempt, instead of ``seconds``.
        reason: The error that the owner of the job sees: a text or an exception.
    """

    seconds: float | None = None
    at: datetime | None = None
    reason: str | BaseException = _NO_REASON

    def outcome(self, queue: str) -> Outcome:
        delay, at = None, None
        if self.seconds is not None or self.at is not None:
            delay, at = _parse_wait("Retry", self.seconds, "at", self.at)
        reason = _clean_reason(self.reason) or _NO_REASON
        return Failed(reason, traceback_of(self), delay_seconds=delay, run_at=at)


@dataclass(eq=False)
class RateLimited(Verdict):
    """Run the job again when a rate limit of another service ends; the attempt is not counted.

    Until then no job under the limit key starts.

    Args:
        seconds: Seconds until the limit ends, such as ``Retry-After`` of a response 429.
        key: The limit key to pause, without ``*``; by default ``queue:<the job's queue>``, the
            whole queue.
        reason: The reason for operators: a text or an exception.
    """

    seconds: float
    key: str | None = None
    reason: str | BaseException | None = None

    def outcome(self, queue: str) -> Outcome:
        key = _check_name("key", self.key) or f"queue:{queue}"
        delay = _parse_seconds("RateLimited", self.seconds)
        return Snoozed(delay, pause_key=key, detail=_clean_reason(self.reason))


@dataclass(eq=False)
class Park(Verdict):
    """Wait for an external event without a worker; the attempt number stays the same.

    Args:
        seconds: Seconds to wait at most; then the job is run again without the event.
        event: Name of the event; by default the id of the job. In the next attempt, ``job.event``
            is the payload of the event.
    """

    seconds: float
    event: str | None = None

    def outcome(self, queue: str) -> Outcome:
        return Parked(_parse_seconds("Park", self.seconds), _check_name("event", self.event))


@dataclass(eq=False)
class Cancel(Verdict):
    """End the job as cancelled."""

    def outcome(self, queue: str) -> Outcome:
        return Cancelled()


class PermanentFailure(Exception):
    """An exception that fails the job, although attempts may be left.

    Args:
        message: The error the owner of the job sees.
    """

    retryable = False

    @property
    def owner_message(self) -> str:
        """The message, without the type."""
        return str(self)


def from_value(value: object, queue: str) -> Outcome:
    """Return the outcome that the return value of a handler asks for."""
    if isinstance(value, Verdict | PermanentFailure):
        return from_error(value, queue)
    if value is None:
        return Completed()
    if isinstance(value, type) and issubclass(value, Verdict | PermanentFailure):
        name = clean_line(value.__name__, 100)
        fault = f"The handler returned the class {name}: return an instance, {name}(…)"
    elif inspect.iscoroutine(value):
        value.close()
        name = clean_line(value.__qualname__, 100)
        fault = f"The handler returned a coroutine that it did not await ({name}): write "
        fault += "`return await …` in a handler defined with `async def`"
    else:
        try:
            result, size = plain_result(value)
            if size <= MAX_RESULT_SIZE:
                return Completed(result)
            fault = f"The result has {size} bytes, the limit is {MAX_RESULT_SIZE}: "
            fault += "put it into Storage and return its path"
        except BaseException as error:  # a serializer of the user can raise anything
            reason = (isinstance(error, InvalidArgument) and error.detail) or describe_error(error)
            fault = clean_line(f"The result cannot be stored: {reason}")
    return Failed(fault, retryable=False)


def from_error(error: BaseException, queue: str) -> Outcome:
    """Return the outcome that an exception of a handler asks for; raises nothing."""
    try:
        return _outcome_of(error, queue)
    # Properties of an exception run code of the user, which may raise. A verdict may be invalid
    # because the user changed its fields.
    except BaseException as fault:
        text = f"{describe_error(error)} (it cannot be read: {describe_error(fault)})"
        return Failed(clean_line(text), traceback_of(error))


def _outcome_of(error: BaseException, queue: str) -> Outcome:
    cause = cause_of(error)
    if isinstance(cause, Verdict):
        outcome: object = cause.outcome(queue)
        if not isinstance(outcome, Outcome):  # the user may have written a subclass of Verdict
            raise TypeError(f"its outcome() returned {outcome!r}")
        return outcome
    delay = wait_seconds(_read_attribute(cause, "retry_after"))
    if _read_attribute(cause, "uses_attempt") is False:
        key: Any = _read_attribute(cause, "pause_key")
        return Snoozed(
            _DEFAULT_SNOOZE if delay is None else delay,
            pause_key=None if _find_name_fault("pause_key", key) else key,
            detail=clean_line(describe_error(cause)),
        )
    owner_message = _read_attribute(cause, "owner_message")
    return Failed(
        (isinstance(owner_message, str) and clean_line(text_of(owner_message)))
        or clean_line(describe_error(cause)),
        traceback_of(error),
        _read_attribute(cause, "retryable") is not False,
        delay,
    )


def _read_attribute(error: BaseException, name: str) -> object:
    """Return an attribute of an exception; None if it is missing or its property raises."""
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def cause_of(error: BaseException) -> BaseException:
    """Return the exception that was raised, taken out of exception groups with one member."""
    for _ in range(_MAX_GROUP_DEPTH):
        if type(error) is ExitOfTask and error.__cause__ is not None:
            error = error.__cause__
        # Not isinstance(), which reads `__class__`: that may be a property that raises.
        is_group = issubclass(type(error), BaseExceptionGroup)
        members = _read_attribute(error, "exceptions") if is_group else None
        if not isinstance(members, tuple) or len(members) != 1:
            break
        error = members[0]
    return error


def _clean_reason(reason: object) -> str | None:
    if reason is None:
        return None
    text = describe_error(reason) if isinstance(reason, BaseException) else text_of(reason)
    return clean_line(text) or None


def _parse_seconds(verdict: str, value: object) -> float:
    seconds = wait_seconds(value)
    if seconds is None:
        raise InvalidArgument(f"{verdict} takes seconds, 0 or more", detail=f"seconds is {value!r}")
    return seconds


def _parse_wait(
    verdict: str, seconds: object, name: str, at: Any
) -> tuple[float | None, str | None]:
    """Return the seconds or the time, whichever is given."""
    if at is None:
        return _parse_seconds(verdict, seconds), None
    if seconds is not None:
        raise InvalidArgument(f"{verdict} takes seconds or {name}, not both")
    # pandas.NaT is a datetime that is not equal to itself.
    if not isinstance(at, datetime) or at != at:
        raise InvalidArgument(f"{verdict} takes a datetime", detail=f"{name} is {at!r}")
    return None, wait_until(at)


def _check_name(name: str, value: str | None) -> str | None:
    fault = None if value is None else _find_name_fault(name, value)
    if fault is not None:
        raise InvalidArgument(fault, detail=repr(value))
    return value


def _find_name_fault(name: str, value: object) -> str | None:
    """Return the fault for which `report_jobs` would refuse a name of an event or a limit key."""
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_NAME_LENGTH:
        size = len(value) if isinstance(value, str) else repr(value)
        return f"A name has 1 to {_MAX_NAME_LENGTH} characters: {name} has {size}"
    if _FORBIDDEN.search(value):
        return f"The {name} holds a character that a database cannot store"
    if "*" in value and name != "event":
        return f"The {name} stands for many keys: name one, without *"
    return None
