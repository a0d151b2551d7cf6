"""The search for a prediction if the response to its create was lost."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from picture_queue.generations.orphans import cancel_after, candidates, has_requested_deadline
from picture_queue.providers.replicate.prediction import Prediction
from picture_queue.records import BegunPrediction

NOW = datetime(2026, 1, 1, 10, tzinfo=UTC)
INPUT = {"prompt": "a boat", "steps": 4}
REQUESTED_SECONDS = 612


def begun_prediction() -> BegunPrediction:
    return BegunPrediction.model_validate(
        {
            "generation": {"id": uuid4()},
            "model": {"model_id": "an/owner"},
            "prediction": {"id": uuid4(), "state": "creating", "input": INPUT, "created_at": NOW},
            "resumed": True,
        }
    )


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


def find_candidates(*listed: Prediction, taken: frozenset[str] = frozenset()) -> list[str]:
    return [
        candidate.id
        for candidate in candidates(begun_prediction(), listed, taken, REQUESTED_SECONDS)
    ]


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


def test_a_prediction_of_another_row_is_not_a_candidate() -> None:
    assert find_candidates(prediction("a"), prediction("b"), taken=frozenset("a")) == ["b"]


def test_candidates_are_ordered_by_deadline_and_age() -> None:
    listed = [
        prediction("late", 3, None),
        prediction("twin", 1, REQUESTED_SECONDS + 1),
        prediction("early", 2, None),
        prediction("own", 4, REQUESTED_SECONDS + 0.4),
    ]
    assert find_candidates(*listed) == ["own", "twin", "early", "late"]


def test_only_an_equal_deadline_makes_a_candidate_certain() -> None:
    assert has_requested_deadline(prediction(), REQUESTED_SECONDS)
    assert not has_requested_deadline(prediction(), REQUESTED_SECONDS + 1)
    assert not has_requested_deadline(prediction(requested=None), REQUESTED_SECONDS)


def test_rows_get_different_deadlines() -> None:
    rows = [
        begun_prediction().prediction.model_copy(update={"id": UUID(int=n)}) for n in range(200)
    ]
    spans = [cancel_after(row, 600.0) for row in rows]
    assert len(set(spans)) == 97
    assert min(spans) == 600
    assert cancel_after(rows[5], 600.0) == spans[5]
