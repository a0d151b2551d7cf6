"""The search for a prediction if the response to its create was lost."""

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
#: Row 12 adds 12 seconds to the timeout.
REQUEST = PredictionRequest(UUID(int=12), NOW, "an/owner", INPUT, timeout=600.0)


def prediction(
    id_: str = "p", age: float = 1.0, requested: float | None = REQUESTED_SECONDS, **fields: Any
) -> Prediction:
    created = NOW + timedelta(seconds=age)
    base: dict[str, Any] = {
        "id": id_,
        "status": "starting",
        "model": "an/owner",
        "input": INPUT,
        "created_at": created,
        "deadline": None if requested is None else created + timedelta(seconds=requested),
    }
    return Prediction.model_validate(base | fields)


def find_candidates(*listed: Prediction) -> list[str]:
    matching = [found for found in listed if is_candidate(REQUEST, found)]
    return [candidate.id for candidate in most_likely_first(REQUEST, matching)]


@pytest.mark.parametrize(
    "matching",
    [
        prediction(),
        prediction(age=-4.9),
        prediction(requested=None),
        prediction(requested=300),
        prediction(input={**INPUT, "steps": 4.0}),
        prediction(input={**INPUT, "added_by_the_api": True}),
    ],
)
def test_a_matching_prediction_is_a_candidate(matching: Prediction) -> None:
    assert find_candidates(matching) == ["p"]


@pytest.mark.parametrize(
    "other",
    [
        prediction(age=-5.1),
        prediction(model="another/model"),
        prediction(input={"prompt": "a boat"}),
        prediction(input={**INPUT, "steps": 5}),
        prediction(input={}),
    ],
)
def test_a_different_prediction_is_not_a_candidate(other: Prediction) -> None:
    assert find_candidates(other) == []


def test_candidates_are_ordered_by_deadline_and_age() -> None:
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
    assert not has_requested_deadline(prediction(requested=None), REQUEST)


def test_rows_get_different_deadlines() -> None:
    spans = [cancel_after(replace(REQUEST, row_id=UUID(int=n))) for n in range(200)]
    assert len(set(spans)) == 97
    assert min(spans) == 600
    assert cancel_after(replace(REQUEST, row_id=UUID(int=5))) == spans[5]
