"""What a handler returns or raises, and the outcome that makes of it."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import BaseModel

from picture_queue.errors import InvalidArgument
from picture_queue.replicate import errors as replicate
from picture_queue.worker import outcomes
from picture_queue.worker.outcomes import (
    Cancel,
    Cancelled,
    Completed,
    Failed,
    Park,
    Parked,
    PermanentFailure,
    Released,
    Snooze,
    Snoozed,
    from_error,
    from_value,
)


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
        (Snooze(3), Snoozed(3)),
        (Park(60), Parked(60)),
        (Cancel(), Cancelled()),
    ],
)
def test_a_returned_value_becomes_an_outcome(value, outcome):
    assert from_value(value) == outcome


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
    outcome = from_value(value)
    assert isinstance(outcome, Failed)
    assert not outcome.retryable
    assert re.search(says, outcome.error)


def test_a_huge_result_is_refused_here(monkeypatch):
    monkeypatch.setattr(outcomes, "LARGEST_RESULT", 10)
    outcome = from_value("x" * 20)
    assert isinstance(outcome, Failed)
    assert "22 bytes" in outcome.error
    assert not outcome.retryable


def raised(error: BaseException) -> Failed:
    try:
        raise error
    except BaseException as caught:
        outcome = from_error(caught)
    assert isinstance(outcome, Failed)
    return outcome


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
    assert from_error(replicate.RateLimited("429", retry_after=12)) == Snoozed(12.0)
    assert from_error(replicate.RateLimited("429")) == Snoozed(10.0)


@pytest.mark.parametrize("kind", [Snooze, Park])
@pytest.mark.parametrize("seconds", [-1, math.inf, "soon", None])
def test_a_time_that_is_none_is_refused_where_it_is_written(kind, seconds):
    with pytest.raises(InvalidArgument, match=rf"{kind.__name__} takes seconds"):
        kind(seconds)


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
        (Snoozed(3), {"outcome": "snoozed", "delay_seconds": 3}),
        (Parked(3), {"outcome": "parked", "delay_seconds": 3}),
        (Released(), {"outcome": "released"}),
        (Cancelled(), {"outcome": "cancelled"}),
    ],
)
def test_outcomes_travel_as_the_database_takes_them(outcome, json):
    assert outcome.as_json() == json
