"""Decisions of handlers about their jobs, returned or raised, and the outcomes they make.

- a value that is JSON → `Completed`;
- a `Verdict` → what it says: run it later (`Snooze`), try again (`Retry`), everybody wait
  (`RateLimited`), wait for something outside (`Park`), end it (`Cancel`);
- `PermanentFailure` → `Failed` without another attempt;
- any other exception → `Failed`, with another attempt after the backoff if one is left. Attributes
  of the exception refine that: ``retryable`` (bool), ``retry_after`` (seconds instead of the
  backoff), ``public`` (the text the owner of the job sees instead of ``Type: message``), ``counts``
  (False: the job is not at fault, the attempt is given back) and, with that, ``pause_key`` (a limit
  key that rests for ``retry_after`` seconds).

A wait is at most a year: a longer one is shortened to that.
"""

import inspect
import re
from dataclasses import dataclass
from datetime import datetime

from picture_queue.errors import InvalidArgument
from picture_queue.worker._tasks import ExitOfTask
from picture_queue.worker.outcomes import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Parked,
    Snoozed,
    clean,
    cleaned_json,
    describe,
    traceback_of,
    wait_seconds,
    wait_until,
)

_SNOOZE_WITHOUT_A_TIME = 10.0  # seconds
_DEEPEST_GROUP = 100
_LONGEST_NAME = 200  # characters of an event or a limit key
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # in such a name


class Verdict(Exception):
    """Return it, or raise it from wherever the handler finds out."""

    def outcome(self, queue: str) -> Outcome:
        """Return what is reported of a job of that queue."""
        raise NotImplementedError

    def __str__(self) -> str:
        return repr(self)


@dataclass(eq=False)
class Snooze(Verdict):
    """Run the job again later; the attempt is given back.

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
        """Return what is reported of a job of that queue."""
        return Snoozed(wait_seconds(self.seconds), _instant(self.until))


@dataclass(eq=False)
class Retry(Verdict):
    """End the attempt as failed; the next one, if one is left, comes when it says.

    Args:
        seconds: Time to the next attempt.
        at: Or when, instead. Neither: after the backoff.
        reason: The error the owner of the job sees: a text, or the exception that was the reason.

    Raises:
        InvalidArgument: Both are given, or it is no time.
    """

    seconds: float | None = None
    at: datetime | None = None
    reason: str | BaseException = "The handler asked for another attempt"

    def __post_init__(self) -> None:
        if self.seconds is not None or self.at is not None:
            _check_one("Retry", "at", self.seconds, self.at)

    def outcome(self, queue: str) -> Outcome:
        """Return what is reported of a job of that queue."""
        reason = self.reason
        text = describe(reason) if isinstance(reason, BaseException) else str(reason)
        return Failed(
            clean(text), traceback_of(self), delay=wait_seconds(self.seconds), at=_instant(self.at)
        )


@dataclass(eq=False)
class RateLimited(Verdict):
    """Somebody outside said how long to leave them alone; the attempt is given back.

    No job under the key starts for so long.

    Args:
        seconds: How long, such as the ``Retry-After`` of an answer 429.
        key: The limit key that rests; by default ``queue:<the job's queue>``, the whole queue.

    Raises:
        InvalidArgument: ``seconds`` is negative or not a number, or the key has not 1 to 200
            characters, none of them ``*`` or a control character.
    """

    seconds: float
    key: str | None = None

    def __post_init__(self) -> None:
        _check_seconds("RateLimited", self.seconds)
        _check_name("key", self.key)

    def outcome(self, queue: str) -> Outcome:
        """Return what is reported of a job of that queue."""
        key = self.key or f"queue:{queue}"
        return Snoozed(wait_seconds(self.seconds), pause_key=key)


@dataclass(eq=False)
class Park(Verdict):
    """Wait for something outside without a worker; the attempt is kept.

    Args:
        seconds: After so long the job is run again to look.
        event: Name of the outside event that wakes it before; by default the id of the job. What
            came with the event is the context's ``event``.

    Raises:
        InvalidArgument: ``seconds`` is negative or not a number, or the name has not 1 to 200
            characters, none of them a control character.
    """

    seconds: float
    event: str | None = None

    def __post_init__(self) -> None:
        _check_seconds("Park", self.seconds)
        _check_name("event", self.event)

    def outcome(self, queue: str) -> Outcome:
        """Return what is reported of a job of that queue."""
        return Parked(wait_seconds(self.seconds), event=self.event)


@dataclass(eq=False)
class Cancel(Verdict):
    """End the job as cancelled."""

    def outcome(self, queue: str) -> Outcome:
        """Return what is reported of a job of that queue."""
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
    """Return the outcome a handler's return value asks for.

    Args:
        value: What it returned.
        queue: The queue of its job.
    """
    if isinstance(value, Verdict | PermanentFailure):
        return from_error(value, queue)
    if inspect.iscoroutine(value):
        value.close()
        name = clean(value.__qualname__, 100)
        return Failed(
            f"The handler returned a coroutine that it did not await ({name}): write "
            "`return await …` in a handler defined with `async def`",
            retryable=False,
        )
    try:
        return Completed(None if value is None else cleaned_json(value))
    except ValueError as error:
        return Failed(clean(str(error)), retryable=False)


def from_error(error: BaseException, queue: str) -> Outcome:
    """Return the outcome an exception of a handler asks for; raises nothing.

    Args:
        error: What it raised.
        queue: The queue of its job.
    """
    try:
        return _outcome_of(error, queue)
    # An exception's properties are the user's code, and a verdict can be changed after it was made.
    except BaseException as fault:
        return _unreadable(error, fault)


def _outcome_of(error: BaseException, queue: str) -> Outcome:
    cause = cause_of(error)
    if isinstance(cause, Verdict):
        return _checked(cause.outcome(queue))
    delay = wait_seconds(_attribute(cause, "retry_after"))
    if _attribute(cause, "counts") is False:
        key = _attribute(cause, "pause_key")
        return Snoozed(
            _SNOOZE_WITHOUT_A_TIME if delay is None else delay,
            pause_key=key if isinstance(key, str) and _is_name("pause_key", key) else None,
            reason=clean(describe(cause)),
        )
    public = _attribute(cause, "public")
    return Failed(
        clean(public if isinstance(public, str) and public else describe(cause)),
        traceback_of(error),
        _attribute(cause, "retryable") is not False,
        delay,
    )


def _checked(outcome: Outcome) -> Outcome:
    """Refuse what the database would not accept of a verdict that was changed after its making."""
    waits = isinstance(outcome, Snoozed | Parked)
    if waits and getattr(outcome, "delay", None) is None and getattr(outcome, "at", None) is None:
        raise InvalidArgument("It takes seconds, 0 or more")
    for name in ("pause_key", "event"):
        _check_name(name, getattr(outcome, name, None))
    return outcome


def _unreadable(error: BaseException, fault: BaseException) -> Failed:
    try:
        text = clean(f"{describe(error)} (it cannot be read: {describe(fault)})")
    except BaseException:  # what its __str__ returns can be an object of the user's class
        text = "The handler raised an exception that cannot be read"
    return Failed(text, traceback_of(error))


def _attribute(error: BaseException, name: str) -> object:
    """Return an attribute of an exception, None where it has none or its property raises."""
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def cause_of(error: BaseException) -> BaseException:
    """Return what was raised, out of the groups that task groups put around it."""
    for _ in range(_DEEPEST_GROUP):
        if type(error) is ExitOfTask and error.__cause__ is not None:
            error = error.__cause__
        # Not isinstance(): it asks for a property of the exception.
        is_group = issubclass(type(error), BaseExceptionGroup)
        members = _attribute(error, "exceptions") if is_group else None
        if not isinstance(members, tuple) or len(members) != 1:
            break
        error = members[0]
    return error


def _instant(at: datetime | None) -> str | None:
    return None if at is None else wait_until(at)


def _check_seconds(name: str, seconds: object) -> None:
    if wait_seconds(seconds) is None:
        raise InvalidArgument(f"{name} takes seconds, 0 or more", detail=f"seconds is {seconds!r}")


def _check_one(name: str, other: str, seconds: object, at: object) -> None:
    """Refuse what is not either seconds or a time."""
    if at is None:
        _check_seconds(name, seconds)
    elif seconds is not None:
        raise InvalidArgument(f"{name} takes seconds or {other}, not both")
    elif not isinstance(at, datetime) or at != at:  # a missing time of pandas
        raise InvalidArgument(f"{name} takes a datetime", detail=f"{other} is {at!r}")


def _check_name(name: str, value: object) -> None:
    """Refuse the name of an event or a limit key that `report_jobs` would refuse."""
    if value is None or (isinstance(value, str) and _is_name(name, value)):
        return
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_NAME:
        size = len(value) if isinstance(value, str) else repr(value)
        raise InvalidArgument(f"A name has 1 to {_LONGEST_NAME} characters: {name} has {size}")
    if "*" in value and not _FORBIDDEN.search(value):
        raise InvalidArgument(
            f"The {name} stands for many keys", detail=repr(value), hint="Name one key, without *"
        )
    raise InvalidArgument(
        f"The {name} holds a character that a database cannot store", detail=repr(value)
    )


def _is_name(name: str, value: str) -> bool:
    return (
        1 <= len(value) <= _LONGEST_NAME
        and _FORBIDDEN.search(value) is None
        and not (name != "event" and "*" in value)
    )
