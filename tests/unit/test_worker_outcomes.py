"""The outcome of an attempt, from the value that its handler returns or the exception it raises."""

import enum
import math
import pickle
import re
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from picture_queue import _text
from picture_queue._json import encode, to_plain
from picture_queue.errors import InvalidArgument
from picture_queue.providers import errors as provider_errors
from picture_queue.worker import verdicts
from picture_queue.worker.outcomes import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Parked,
    Released,
    Snoozed,
)
from picture_queue.worker.verdicts import (
    Cancel,
    Park,
    PermanentFailure,
    RateLimited,
    Retry,
    Snooze,
    Verdict,
    from_error,
    from_value,
)

YEAR_2027 = datetime(2027, 1, 1, tzinfo=UTC)
YEAR_2027_TEXT = "2027-01-01T00:00:00+00:00"
YEAR_SECONDS = 31_536_000.0


class Size(BaseModel):
    width: int


@dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = "red"


class Unserializable:
    pass


class Panic(BaseException):
    """An exception of a Rust extension, which does not inherit from `Exception`."""


def nested_list(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def generator_that_raises() -> Any:
    yield 1
    raise Panic("halfway")


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (None, Completed(None)),
        ({"a": [1, 2.5, "ü", None]}, Completed({"a": [1, 2.5, "ü", None]})),
        (Size(width=3), Completed({"width": 3})),
        (Point(4), Completed({"x": 4})),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, Completed({"at": "2026-01-01T00:00:00+00:00"})),
        (UUID(int=1), Completed("00000000-0000-0000-0000-000000000001")),
        ({"loss": math.nan}, Completed({"loss": None})),
        ("a backslash \\u0000", Completed("a backslash \\u0000")),
    ],
)
def test_a_returned_value_becomes_an_outcome(value, outcome):
    assert from_value(value, "q") == outcome


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.50"),
        {"c", "a", "b"},
        datetime(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC),
        timedelta(seconds=90),
        Colour.RED,
        {Colour.RED: (1, b"abc")},
        deque([1]),
        Size(width=3),
        [Point(4)],
    ],
)
def test_results_and_arguments_have_the_same_encoding(value):
    assert from_value(value, "q") == Completed(from_json(encode(to_plain(value))))


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Snooze(3), Snoozed(3)),
        (Snooze(until=YEAR_2027), Snoozed(run_at=YEAR_2027_TEXT)),
        (Retry(), Failed("The handler asked for another attempt")),
        (Retry(3, reason="not\nyet"), Failed("not yet", delay_seconds=3)),
        (
            Retry(at=YEAR_2027),
            Failed("The handler asked for another attempt", run_at=YEAR_2027_TEXT),
        ),
        (Retry(1, reason=KeyError("a")), Failed("KeyError: 'a'", delay_seconds=1)),
        (Retry(1, reason=7), Failed("7", delay_seconds=1)),  # type: ignore[arg-type]
        (RateLimited(3), Snoozed(3, pause_key="queue:q")),
        (RateLimited(3, "api"), Snoozed(3, pause_key="api")),
        (Park(60), Parked(60)),
        (Park(60, event="paid"), Parked(60, event="paid")),
        (Cancel(), Cancelled()),
    ],
)
def test_a_verdict_may_be_returned_or_raised(verdict, outcome):
    assert from_value(verdict, "q") == outcome
    assert without_detail(outcome_of_raised(verdict)) == outcome
    assert without_detail(outcome_of_raised(ExceptionGroup("tasks", [verdict]))) == outcome


def without_detail(outcome: Outcome) -> Outcome:
    return replace(outcome, detail=None) if isinstance(outcome, Failed) else outcome


def test_a_raised_retry_records_its_traceback_and_cause():
    try:
        try:
            raise ValueError("the cause")
        except ValueError as error:
            raise Retry(1) from error
    except Verdict as retry:
        outcome = from_error(retry, "q")
    assert isinstance(outcome, Failed)
    assert outcome.detail is not None
    assert "the cause" in outcome.detail


def test_a_permanent_failure_may_be_returned():
    outcome = from_value(PermanentFailure("no picture"), "q")
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.retryable) == ("no picture", False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Unserializable(), "cannot be stored: .*Unserializable"),
        ("\ud800", "cannot be stored"),
        ({"text": "a\x00b"}, "U\\+0000"),
        ({"\x00": 1}, "U\\+0000"),
        ({"n": 10**5000}, "cannot be stored: .*out of range"),
        (nested_list(300), "cannot be stored: result is nested deeper than 100 levels"),
        (nested_list(3000), "cannot be stored"),
        (generator_that_raises(), "cannot be stored: .*Panic: halfway"),
        ({"n": count()}, "cannot be stored: result.*over 1000000 items"),
        (Point, "cannot be stored: .*of type type"),
    ],
)
def test_a_result_that_cannot_be_stored_is_a_failure_without_a_retry(value, expected):
    outcome = from_value(value, "q")
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert re.search(expected, outcome.error)


@pytest.mark.parametrize(
    "value",
    ["9" * 400, nested_list(100), [nested_list(2)] * 200, {"[" * 200: '\\"' + "{" * 200}, 10**300],
)
def test_a_result_at_the_limits_of_size_and_depth_is_stored(value):
    assert from_value(value, "q") == Completed(value)


async def test_the_error_for_a_returned_coroutine_names_the_coroutine():
    async def draw() -> None: ...

    outcome = from_value(draw(), "q")
    assert isinstance(outcome, Failed)
    assert re.search(r"returned a coroutine .*draw.* `return await", outcome.error)
    assert not outcome.retryable


def test_a_huge_result_is_refused_by_the_worker(monkeypatch):
    monkeypatch.setattr(verdicts, "MAX_RESULT_SIZE", 10)
    outcome = from_value("x" * 20, "q")
    assert isinstance(outcome, Failed)
    assert "22 bytes" in outcome.error
    assert not outcome.retryable


def outcome_of_raised(error: BaseException) -> Any:
    try:
        raise error
    except BaseException as caught:
        return from_error(caught, "q")


def test_an_exception_causes_a_retry():
    outcome = outcome_of_raised(ValueError("two\nlines\tand \x00 \ud800 \x1b[31m \x9b"))
    assert outcome.error == "ValueError: two lines and \ufffd ? \ufffd[31m \ufffd"
    assert outcome.retryable
    assert outcome.delay_seconds is None
    assert outcome.detail is not None
    assert "Traceback" in outcome.detail
    assert "raise error" in outcome.detail


def test_an_exception_without_text_is_shown_by_its_class():
    assert outcome_of_raised(KeyError()).error == "KeyError"


def test_an_exception_whose_str_fails_is_shown_by_its_class():
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

    assert outcome_of_raised(Broken()).error == "Broken"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermanentFailure(" \n"), "PermanentFailure"),
        (ValueError("\t"), "ValueError"),
        (Retry(1, reason=""), "The handler asked for another attempt"),
        (Retry(1, reason=None), "The handler asked for another attempt"),  # type: ignore[arg-type]
    ],
)
def test_an_error_is_never_blank(error, expected):
    assert outcome_of_raised(error).error == expected


@pytest.mark.parametrize("verdict_class", [Snooze, Cancel, PermanentFailure])
def test_the_error_for_a_returned_verdict_class_asks_for_an_instance(verdict_class):
    outcome = from_value(verdict_class, "q")
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    name = verdict_class.__name__
    assert f"the class {name}: return an instance, {name}(…)" in outcome.error


def test_error_texts_are_truncated():
    outcome = outcome_of_raised(ValueError("x" * 100_000 + "the end"))
    assert len(outcome.error) == _text.LINE_LENGTH
    assert outcome.error.endswith("…")
    assert outcome.detail is not None
    assert len(outcome.detail) <= _text.TRACEBACK_LENGTH
    assert outcome.detail.endswith("the end")


def test_a_permanent_failure_shows_its_message_alone():
    outcome = outcome_of_raised(PermanentFailure("the file is no picture"))
    assert (outcome.error, outcome.retryable) == ("the file is no picture", False)


def test_the_attributes_retryable_retry_after_and_owner_message_of_an_exception_are_used():
    class Refused(Exception):
        retryable = True
        retry_after = 7
        owner_message = "come back later"

    outcome = outcome_of_raised(Refused("secret"))
    assert (outcome.error, outcome.retryable, outcome.delay_seconds) == (
        "come back later",
        True,
        7.0,
    )
    assert outcome.detail is not None
    assert "secret" in outcome.detail


@pytest.mark.parametrize("retry_after", [-1, math.inf, math.nan, "7", datetime.now(UTC)])
def test_an_invalid_retry_after_is_ignored(retry_after):
    error = ValueError("x")
    error.retry_after = retry_after  # type: ignore[attr-defined]
    assert outcome_of_raised(error).delay_seconds is None


def test_a_single_failure_in_an_exception_group_is_unwrapped():
    group = ExceptionGroup("tasks", [ExceptionGroup("more", [PermanentFailure("inner")])])
    assert (outcome_of_raised(group).error, outcome_of_raised(group).retryable) == ("inner", False)
    two_failures = ExceptionGroup("tasks", [ValueError("a"), ValueError("b")])
    assert outcome_of_raised(two_failures).error == "ExceptionGroup: tasks (2 sub-exceptions)"


def test_an_exception_with_uses_attempt_false_does_not_use_up_an_attempt():
    assert outcome_of_raised(provider_errors.TooManyRequests("429", retry_after=12)) == Snoozed(
        12.0
    )
    error = provider_errors.TooManyRequests("429")
    error.pause_key = "provider:replicate"
    assert outcome_of_raised(error) == Snoozed(10.0, pause_key="provider:replicate")


# --- Delays: limits of the database ---


@pytest.mark.parametrize(
    ("seconds", "delay"),
    [
        (40_000_000, YEAR_SECONDS),
        (1771404540, YEAR_SECONDS),
        (10**400, YEAR_SECONDS),
        (1e300, YEAR_SECONDS),
        (1e-50, 0.0),
        (0.0004, 0.0),
        (Fraction(1, 3), 0.333),
        (True, 1.0),
    ],
)
def test_a_delay_is_limited_to_the_maximum_of_the_database(seconds, delay):
    assert from_value(Snooze(seconds), "q") == Snoozed(delay)
    assert from_value(Park(seconds), "q") == Parked(delay)
    assert from_value(RateLimited(seconds, "api"), "q") == Snoozed(delay, pause_key="api")
    error = ValueError("no")
    error.retry_after = seconds  # type: ignore[attr-defined]
    outcome = outcome_of_raised(error)
    assert (outcome.error, outcome.delay_seconds) == ("ValueError: no", delay)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC"])
@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime.max, "9998-12-31T23:59:00+00:00"),
        (datetime.min, "1970-01-01T00:00:00+00:00"),
        (datetime.max.replace(tzinfo=UTC), "9998-12-31T23:59:00+00:00"),
        (
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
            "9998-12-31T23:59:00+00:00",
        ),
        (
            datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
            "1970-01-01T00:00:00+00:00",
        ),
        (datetime(2027, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), YEAR_2027_TEXT),
    ],
)
def test_a_time_is_limited_to_the_range_of_the_database(at, text, zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert from_value(Snooze(until=at), "q") == Snoozed(run_at=text)
        assert without_detail(outcome_of_raised(Retry(at=at))).run_at == text
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_naive_time_is_in_the_zone_of_the_worker(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert from_value(Snooze(until=datetime(2027, 1, 1, 1)), "q") == Snoozed(
            run_at=YEAR_2027_TEXT
        )
    finally:
        monkeypatch.undo()
        time.tzset()


# --- Exceptions whose properties or methods raise ---


class FailingProperties(Exception):
    """An exception whose properties raise, like `headers["Retry-After"]` without the header."""

    @property
    def retry_after(self) -> float:
        return {}["Retry-After"]

    @property
    def uses_attempt(self) -> bool:
        raise Panic

    @property
    def owner_message(self) -> str:
        raise SystemExit

    @property
    def retryable(self) -> bool:
        raise KeyboardInterrupt


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Panic

    __repr__ = __str__


class TextWithFailingSplit(str):
    __slots__ = ()

    def split(self, *args: Any) -> Any:
        raise Panic


class FailingOwnerMessage(Exception):
    owner_message = TextWithFailingSplit("shown")


class FailingGroup(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        raise Panic


class NoOutcome(Snooze):
    def outcome(self, queue: str) -> Any:
        return None


class FailingClassAttribute(Exception):
    @property
    def __class__(self) -> Any:
        raise Panic


def with_attributes(verdict: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(verdict, name, value)
    return verdict


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FailingProperties("no"), "FailingProperties: no"),
        (Unprintable(), "Unprintable"),
        (FailingOwnerMessage("no"), "shown"),
        (FailingGroup("tasks", [ValueError("a")]), "FailingGroup: tasks"),
        (Retry(1, reason=Unprintable()), "Unprintable"),
        (ExceptionGroup("tasks", [FailingProperties("no")]), "FailingProperties: no"),
        (BaseExceptionGroup("tasks", [Panic("no")]), "Panic: no"),
        (with_attributes(Snooze(1), seconds=math.nan), "Snooze.*seconds=nan"),
        (with_attributes(Snooze(1), seconds=None), "Snooze.*seconds=None"),
        (with_attributes(Park(1), seconds="soon"), "Park.*seconds='soon'"),
        (with_attributes(Park(1), event="a\x00"), "Park.*event='a"),
        (with_attributes(RateLimited(1), key="k" * 201), "RateLimited"),
        (Verdict(), "Verdict"),
        (NoOutcome(1), "NoOutcome.*outcome\\(\\) returned None"),
    ],
)
def test_an_exception_whose_properties_or_methods_raise_keeps_its_error(error, expected):
    outcome = outcome_of_raised(error)
    assert isinstance(outcome, Failed)
    assert re.search(expected, outcome.error)
    to_json(outcome.as_json())


def test_an_exception_with_a_failing_class_attribute_keeps_its_error():
    assert outcome_of_raised(FailingClassAttribute("no")).error.startswith(
        "FailingClassAttribute: no"
    )


def test_an_invalid_pause_key_is_ignored():
    error = provider_errors.TooManyRequests("429", retry_after=3)
    for key in ("", "k" * 201, "a\x00", "a\nb", "user:*", 7):
        error.pause_key = key  # type: ignore[assignment]
        assert outcome_of_raised(error) == Snoozed(3.0)


@pytest.mark.parametrize("verdict_class", [Snooze, Park])
@pytest.mark.parametrize("seconds", [-1, math.inf, "soon", None])
def test_an_invalid_delay_raises_in_the_constructor(verdict_class, seconds):
    with pytest.raises(InvalidArgument, match=rf"{verdict_class.__name__} takes seconds"):
        verdict_class(seconds)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Snooze(), "Snooze takes seconds"),
        (lambda: Snooze(1, YEAR_2027), "Snooze takes seconds or until, not both"),
        (lambda: Snooze(until=3), "Snooze takes a datetime: until is 3"),  # type: ignore[arg-type]
        (lambda: Retry(-1), "Retry takes seconds"),
        (lambda: Retry(1, YEAR_2027), "Retry takes seconds or at, not both"),
        (lambda: RateLimited(-1), "RateLimited takes seconds"),
        (lambda: RateLimited(1, ""), "key has 0"),
        (lambda: Park(1, "e" * 201), "event has 201"),
        (lambda: Park(1, "e\x00"), "event holds a character that a database cannot store"),
        (lambda: Park(1, "a\nb"), "event holds a character that a database cannot store"),
        (lambda: RateLimited(1, "user:*"), "key stands for many keys"),
        (lambda: RateLimited(1, 7), "key has 7"),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_verdict_raises_in_the_constructor(make, expected):
    with pytest.raises(InvalidArgument, match=expected):
        make()


@pytest.mark.parametrize(
    "verdict",
    [
        Snooze(5),
        Snooze(seconds=5, reason="busy"),
        Snooze(until=datetime(2030, 1, 1, tzinfo=UTC)),
        Retry(at=datetime(2030, 1, 1, tzinfo=UTC)),
        RateLimited(seconds=5, key="api"),
        Park(seconds=5, event="paid"),
        Cancel(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_verdict_can_be_pickled(verdict, protocol):
    """An exception that cannot be unpickled breaks the process pool that a handler may use."""
    unpickled = pickle.loads(pickle.dumps(verdict, protocol))
    assert repr(unpickled) == repr(verdict)
    assert unpickled.outcome("images") == verdict.outcome("images")


@pytest.mark.parametrize(
    ("outcome", "json"),
    [
        (Completed({"a": 1}), {"outcome": "completed", "result": {"a": 1}}),
        (
            Failed("no", "trace", False, 3),
            {
                "outcome": "failed",
                "error": "no",
                "detail": "trace",
                "retryable": False,
                "delay_seconds": 3,
            },
        ),
        (
            Failed("no", run_at=YEAR_2027_TEXT),
            {"outcome": "failed", "error": "no", "retryable": True, "run_at": YEAR_2027_TEXT},
        ),
        (Snoozed(3), {"outcome": "snoozed", "delay_seconds": 3}),
        (Snoozed(run_at=YEAR_2027_TEXT), {"outcome": "snoozed", "run_at": YEAR_2027_TEXT}),
        (Snoozed(3, detail="429"), {"outcome": "snoozed", "delay_seconds": 3, "detail": "429"}),
        (
            Snoozed(3, pause_key="api"),
            {"outcome": "snoozed", "delay_seconds": 3, "pause_key": "api"},
        ),
        (Parked(3), {"outcome": "parked", "delay_seconds": 3}),
        (Parked(3, "paid"), {"outcome": "parked", "delay_seconds": 3, "event": "paid"}),
        (Released(), {"outcome": "released"}),
        (Cancelled(), {"outcome": "cancelled"}),
    ],
)
def test_outcomes_are_encoded_for_the_database(outcome, json):
    assert outcome.as_json() == json


@pytest.mark.parametrize("verdict_class", [Snooze, RateLimited])
@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("the API is down", "the API is down"),
        (OSError("no route"), "OSError: no route"),
        (" \n ", None),
        (None, None),
    ],
)
def test_a_snoozed_job_records_its_reason(verdict_class, reason, detail):
    outcome = verdict_class(3, reason=reason).outcome("q")
    assert (outcome.delay_seconds, outcome.detail) == (3.0, detail)
