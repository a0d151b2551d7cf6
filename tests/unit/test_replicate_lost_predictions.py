"""The search for a prediction whose id is unknown, because the response to its create was lost."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from picture_queue.providers.base import PredictionRequest
from picture_queue.providers.replicate.lost_predictions import (
    cancel_after,
    compare_inputs,
    has_requested_deadline,
    is_candidate,
    may_be_of,
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


FILE = "https://a.supabase.co/storage/v1/object/sign/uploads/1/in.png"
EDIT = replace(REQUEST, input={"image": FILE, "steps": 4}, file_inputs=frozenset({"image"}))


def with_image(image: Any, requested: float | None = REQUESTED_SECONDS) -> Prediction:
    return prediction(deadline_after=requested, input={"image": image, "steps": 4})


@pytest.mark.parametrize("requested", [REQUESTED_SECONDS, None])
def test_a_file_matches_with_any_token(requested: float | None) -> None:
    found = with_image(FILE + "?token=a.b.c", requested)
    assert is_candidate(EDIT, found)
    assert compare_inputs(EDIT, found) == "equal"


@pytest.mark.parametrize(
    "image",
    [
        FILE.replace("/1/", "/2/") + "?token=a.b.c",
        FILE.replace("//a.", "//b.") + "?token=a.b.c",
        FILE.replace("https", "http") + "?token=a.b.c",
        FILE + ".png?token=a.b.c",
        FILE + "?version=2",
        [FILE + "?token=a.b.c"],
        None,
    ],
)
def test_another_file_is_not_a_candidate(image: Any) -> None:
    assert not is_candidate(EDIT, with_image(image))


@pytest.mark.parametrize(
    "image", ["data:image/png;base64,AAAA", "https://replicate.delivery/pbxt/a/in.png"]
)
def test_a_file_in_another_form_needs_the_requested_deadline(image: str) -> None:
    assert is_candidate(EDIT, with_image(image))
    assert compare_inputs(EDIT, with_image(image)) == "unknown"
    assert not is_candidate(EDIT, with_image(image, None))
    assert not is_candidate(EDIT, with_image(image, REQUESTED_SECONDS + 1))


def test_lists_of_files_are_compared_one_by_one() -> None:
    request = replace(EDIT, input={"image": [FILE, FILE], "steps": 4})
    assert is_candidate(request, with_image([FILE + "?token=a", FILE + "?token=b"], None))
    assert not is_candidate(request, with_image([FILE, FILE.replace("/1/", "/2/")], None))
    assert not is_candidate(request, with_image([FILE], None))
    assert not is_candidate(request, with_image([FILE, "data:,"], None))


def test_a_url_of_the_user_is_compared_with_its_query() -> None:
    request = replace(EDIT, input={"image": FILE + "?id=1", "steps": 4})
    assert is_candidate(request, with_image(FILE + "?id=1"))
    assert not is_candidate(request, with_image(FILE + "?id=2"))


def test_another_row_may_have_created_a_prediction_unless_the_deadlines_differ() -> None:
    same, other = UUID(int=12 + 97), UUID(int=13)
    assert may_be_of(prediction(), REQUEST, same)
    assert not may_be_of(prediction(), REQUEST, other)
    assert may_be_of(prediction(deadline_after=None), REQUEST, other)


def test_rows_get_different_deadlines() -> None:
    seconds = [cancel_after(replace(REQUEST, row_id=UUID(int=n))) for n in range(200)]
    assert len(set(seconds)) == 97
    assert min(seconds) == 600
    assert cancel_after(replace(REQUEST, row_id=UUID(int=5))) == seconds[5]
