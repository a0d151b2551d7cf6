"""The search for a prediction whose id is unknown, because the response to its create was lost."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from picture_queue.providers.base import PredictionRequest
from picture_queue.providers.replicate.orphans import (
    cancel_after,
    has_requested_deadline,
    is_candidate,
    most_likely_first,
)
from picture_queue.providers.replicate.prediction import Prediction

NOW = datetime(2026, 1, 1, 10, tzinfo=UTC)
INPUT = {"prompt": "a boat", "steps": 4}
REQUESTED_SECONDS = 612
#: The deadline is 600 seconds plus a number of seconds from the id of the row, here 12.
REQUEST = PredictionRequest(UUID(int=12), NOW, "an/owner", INPUT, timeout=600.0)


def prediction(
    id_: str = "p",
    created_after: float = 1.0,
    deadline_after: float | None = REQUESTED_SECONDS,
    **fields: Any,
) -> Prediction:
    """Return a prediction.

    Args:
        id_: The id of the prediction.
        created_after: The seconds from the request to the creation.
        deadline_after: The seconds from the creation to the deadline, or None without a deadline.
        fields: Other fields.
    """
    created = NOW + timedelta(seconds=created_after)
    base: dict[str, Any] = {
        "id": id_,
        "status": "starting",
        "model": "an/owner",
        "input": INPUT,
        "created_at": created,
        "deadline": (
            None if deadline_after is None else created + timedelta(seconds=deadline_after)
        ),
    }
    return Prediction.model_validate(base | fields)


def find_candidates(*listed: Prediction) -> list[str]:
    candidates = [listed_one for listed_one in listed if is_candidate(REQUEST, listed_one)]
    return [candidate.id for candidate in most_likely_first(REQUEST, candidates)]


@pytest.mark.parametrize(
    "matching",
    [
        prediction(),
        prediction(created_after=-4.9),  # The clocks may differ by five seconds.
        prediction(deadline_after=None),
        prediction(deadline_after=300),
        prediction(input={**INPUT, "steps": 4.0}),
        prediction(input={**INPUT, "added_by_the_api": True}),
    ],
)
def test_a_matching_prediction_is_a_candidate(matching: Prediction) -> None:
    assert find_candidates(matching) == ["p"]


@pytest.mark.parametrize(
    "other",
    [
        prediction(created_after=-5.1),
        prediction(model="another/model"),
        prediction(input={"prompt": "a boat"}),
        prediction(input={**INPUT, "steps": 5}),
        prediction(input={}),
    ],
)
def test_a_different_prediction_is_not_a_candidate(other: Prediction) -> None:
    assert find_candidates(other) == []


def test_candidates_are_ordered_by_deadline_and_then_by_creation() -> None:
    listed = [
        prediction("late", 3, None),
        prediction("twin", 1, REQUESTED_SECONDS + 1),
        prediction("early", 2, None),
        prediction("own", 4, REQUESTED_SECONDS + 0.4),
    ]
    assert find_candidates(*listed) == ["own", "twin", "early", "late"]


def test_only_an_equal_deadline_makes_a_candidate_certain() -> None:
    assert has_requested_deadline(prediction(), REQUEST)
    assert not has_requested_deadline(prediction(), replace(REQUEST, row_id=UUID(int=13)))
    assert not has_requested_deadline(prediction(deadline_after=None), REQUEST)


def test_rows_get_different_deadlines() -> None:
    seconds = [cancel_after(replace(REQUEST, row_id=UUID(int=n))) for n in range(200)]
    assert len(set(seconds)) == 97
    assert min(seconds) == 600
    assert cancel_after(replace(REQUEST, row_id=UUID(int=5))) == seconds[5]
