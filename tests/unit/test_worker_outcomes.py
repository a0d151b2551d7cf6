"""What a handler returns or raises, and the outcome that makes of it."""

import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from picture_queue.errors import InvalidArgument
from picture_queue.replicate import errors as replicate
from picture_queue.worker import outcomes
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

LATER = datetime(2027, 1, 1, tzinfo=UTC)


class Size(BaseModel):
    width: int


@dataclass
class Point:
    x: int


class Unserializable:
    pass


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (None, Completed(None)),
        ({"a": [1, 2.5, "ü", None]}, Completed({"a": [1, 2.5, "ü", None]})),
        (Size(width=3), Completed({"width": 3})),
        (Point(4), Completed({"x": 4})),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, Completed({"at": "2026-01-01T00:00:00Z"})),
        (UUID(int=1), Completed("00000000-0000-0000-0000-000000000001")),
        ({"loss": math.nan}, Completed({"loss": None})),
        ("a backslash \\u0000", Completed("a backslash \\u0000")),
    ],
)
def test_a_returned_value_becomes_an_outcome(value, outcome):
    assert from_value(value, "q") == outcome


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Snooze(3), Snoozed(3)),
        (Snooze(until=LATER), Snoozed(at=LATER)),
        (Retry(), Failed("The handler asked for another attempt")),
        (Retry(3, reason="not\nyet"), Failed("not yet", delay=3)),
        (Retry(at=LATER), Failed("The handler asked for another attempt", at=LATER)),
        (RateLimited(3), Snoozed(3, pause_key="queue:q")),
        (RateLimited(3, "api"), Snoozed(3, pause_key="api")),
        (Park(60), Parked(60)),
        (Park(60, event="paid"), Parked(60, event="paid")),
        (Cancel(), Cancelled()),
    ],
)
def test_a_verdict_is_the_same_returned_and_raised(verdict, outcome):
    assert from_value(verdict, "q") == outcome
    assert without_detail(raised(verdict)) == outcome
    assert without_detail(raised(ExceptionGroup("tasks", [verdict]))) == outcome


def without_detail(outcome: Outcome) -> Outcome:
    return replace(outcome, detail=None) if isinstance(outcome, Failed) else outcome


def test_a_retry_that_was_raised_says_where_and_why():
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


def test_a_permanent_failure_may_be_returned_too():
    outcome = from_value(PermanentFailure("no picture"), "q")
    assert isinstance(outcome, Failed)
    assert (outcome.error, outcome.retryable) == ("no picture", False)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Unserializable(), "not JSON: .*Unserializable"),
        ("\ud800", "not JSON"),
        ({"text": "a\x00b"}, "U\\+0000"),
        ({"\x00": 1}, "U\\+0000"),
    ],
)
def test_what_cannot_be_stored_fails_the_job_for_good(value, says):
    outcome = from_value(value, "q")
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert re.search(says, outcome.error)


def test_a_huge_result_is_refused_here(monkeypatch):
    monkeypatch.setattr(outcomes, "LARGEST_RESULT", 10)
    outcome = from_value("x" * 20, "q")
    assert isinstance(outcome, Failed)
    assert "22 bytes" in outcome.error
    assert not outcome.retryable


def raised(error: BaseException) -> Any:
    try:
        raise error
    except BaseException as caught:
        return from_error(caught, "q")


def test_an_exception_is_worth_another_attempt():
    outcome = raised(ValueError("two\nlines\tand \x00 \ud800"))
    assert outcome.error == "ValueError: two lines and \ufffd ?"
    assert outcome.retryable
    assert outcome.delay is None
    assert outcome.detail is not None
    assert "Traceback" in outcome.detail
    assert "raise error" in outcome.detail


def test_an_exception_without_text_is_named():
    assert raised(KeyError()).error == "KeyError"


def test_an_exception_whose_text_fails_is_named():
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

    assert raised(Broken()).error == "Broken"


def test_texts_are_bounded():
    outcome = raised(ValueError("x" * 100_000 + "the end"))
    assert len(outcome.error) == outcomes.ERROR_LENGTH
    assert outcome.error.endswith("…")
    assert outcome.detail is not None
    assert len(outcome.detail) <= outcomes.DETAIL_LENGTH
    assert outcome.detail.endswith("the end")


def test_a_permanent_failure_shows_its_message_alone():
    outcome = raised(PermanentFailure("the file is no picture"))
    assert (outcome.error, outcome.retryable) == ("the file is no picture", False)


def test_the_attributes_of_an_exception_are_honoured():
    class Refused(Exception):
        retryable = True
        retry_after = 7
        public = "come back later"

    outcome = raised(Refused("secret"))
    assert (outcome.error, outcome.retryable, outcome.delay) == ("come back later", True, 7.0)
    assert outcome.detail is not None
    assert "secret" in outcome.detail


@pytest.mark.parametrize("retry_after", [-1, math.inf, math.nan, "7", datetime.now(UTC)])
def test_a_retry_after_that_is_no_time_is_ignored(retry_after):
    error = ValueError("x")
    error.retry_after = retry_after  # type: ignore[attr-defined]
    assert raised(error).delay is None


def test_a_failure_in_a_task_group_is_seen_through():
    group = ExceptionGroup("tasks", [ExceptionGroup("more", [PermanentFailure("inner")])])
    assert (raised(group).error, raised(group).retryable) == ("inner", False)
    two = ExceptionGroup("tasks", [ValueError("a"), ValueError("b")])
    assert raised(two).error == "ExceptionGroup: tasks (2 sub-exceptions)"


def test_what_is_not_the_jobs_fault_gives_the_attempt_back():
    assert raised(replicate.RateLimited("429", retry_after=12)) == Snoozed(12.0)
    error = replicate.RateLimited("429")
    error.pause_key = "type:generate-image"
    assert raised(error) == Snoozed(10.0, pause_key="type:generate-image")


@pytest.mark.parametrize("kind", [Snooze, Park])
@pytest.mark.parametrize("seconds", [-1, math.inf, "soon", None])
def test_a_time_that_is_none_is_refused_where_it_is_written(kind, seconds):
    with pytest.raises(InvalidArgument, match=rf"{kind.__name__} takes seconds"):
        kind(seconds)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Snooze(), "Snooze takes seconds"),
        (lambda: Snooze(1, LATER), "Snooze takes seconds or until, not both"),
        (lambda: Snooze(until=3), "Snooze takes a datetime: until is 3"),  # type: ignore[arg-type]
        (lambda: Retry(-1), "Retry takes seconds"),
        (lambda: Retry(1, LATER), "Retry takes seconds or at, not both"),
        (lambda: RateLimited(-1), "RateLimited takes seconds"),
        (lambda: RateLimited(1, ""), "key has 0"),
        (lambda: Park(1, "e" * 201), "event has 201"),
    ],
)
def test_a_verdict_that_makes_no_sense_is_refused_where_it_is_written(make, says):
    with pytest.raises(InvalidArgument, match=says):
        make()


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
            Failed("no", at=LATER),
            {"outcome": "failed", "error": "no", "retryable": True, "run_at": LATER.isoformat()},
        ),
        (Snoozed(3), {"outcome": "snoozed", "delay_seconds": 3}),
        (Snoozed(at=LATER), {"outcome": "snoozed", "run_at": LATER.isoformat()}),
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
def test_outcomes_travel_as_the_database_takes_them(outcome, json):
    assert outcome.as_json() == json
