"""Find the prediction of a create call whose answer was lost.

The API has no idempotency key and accepts no metadata. A prediction can be recognised only by its
model, input, time of creation and deadline. We choose the deadline, so each row requests a slightly
different one. This distinguishes most predictions of jobs with the same input, but one in 97 pairs
of rows has the same deadline. `PredictionManager` asks the database about such rows.

A prediction of another user, or of another program with the same account, may have the same model
and texts and another file. Files are compared by their URL without its token, so that only a
prediction of the same file of the same project matches.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Literal
from uuid import UUID

from picture_queue.providers.base import PredictionRequest
from picture_queue.providers.replicate.prediction import Prediction

#: The clock of the database may be this much ahead of Replicate's.
CLOCK_SKEW = timedelta(seconds=5)
#: The search ends at this time after the commit of the row. A worker that is suspended for longer
#: between the commit and the call may still create a prediction, which its deadline then ends.
MAX_DELAY = timedelta(minutes=15)
_SPREAD = 97  # seconds; a prime number, so that similar ids give different remainders
# The deadlines of two rows differ by whole seconds, so this tolerance distinguishes them.
_TOLERANCE = timedelta(seconds=0.6)

Comparison = Literal["equal", "unknown", "different"]
_WORST_FIRST: tuple[Comparison, ...] = ("different", "unknown")
#: The forms in which the API may show a file instead of the URL that it was given.
_REPLACED = re.compile(r"data:|https://([a-z0-9-]+[.])*replicate[.](com|delivery)/")


def cancel_after(request: PredictionRequest) -> int:
    """Return the seconds for ``Cancel-After``: the timeout, plus 0 to 96 that depend on the row."""
    return round(request.timeout) + request.row_id.int % _SPREAD


def is_candidate(request: PredictionRequest, prediction: Prediction) -> bool:
    """Return whether the create call of a request may have created this prediction."""
    if (
        prediction.model != request.model_id
        or prediction.created_at < request.created_at - CLOCK_SKEW
    ):
        return False
    comparison = compare_inputs(request, prediction)
    return comparison == "equal" or (
        comparison == "unknown" and has_requested_deadline(prediction, request)
    )


def most_likely_first(
    request: PredictionRequest, candidates: Iterable[Prediction]
) -> list[Prediction]:
    """Return first the candidates with the requested deadline, then the oldest."""
    return sorted(
        candidates,
        key=lambda candidate: (
            not has_requested_deadline(candidate, request),
            candidate.created_at,
        ),
    )


def has_requested_deadline(prediction: Prediction, request: PredictionRequest) -> bool:
    """Return whether a prediction has the deadline that the request asked for."""
    if prediction.deadline is None:
        return False
    span = prediction.deadline - prediction.created_at
    return abs(span - timedelta(seconds=cancel_after(request))) <= _TOLERANCE


def may_be_of(prediction: Prediction, request: PredictionRequest, row_id: UUID) -> bool:
    """Return whether another row with an equal input may have created a prediction.

    Args:
        prediction: A candidate for the request.
        request: The request.
        row_id: The id of the other row.
    """
    if not has_requested_deadline(prediction, request):
        return True
    return has_requested_deadline(prediction, replace(request, row_id=row_id))


def compare_inputs(request: PredictionRequest, prediction: Prediction) -> Comparison:
    """Compare the inputs of a request with those of a prediction.

    The API may add defaults, but it does not change the inputs of the request. The URL of a file is
    compared without the token, which differs for each call.

    Returns:
        ``unknown`` if all inputs are equal except for files that the API shows in another form.
    """
    missing = object()
    result: Comparison = "equal"
    for name, expected in request.input.items():
        value = prediction.input.get(name, missing)
        if value == expected:
            continue
        comparison = _compare_files(value, expected) if name in request.file_inputs else "different"
        if comparison == "different":
            return comparison
        if comparison == "unknown":
            result = comparison
    return result


def _compare_files(value: object, expected: object) -> Comparison:
    if isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        results = {_compare_files(*pair) for pair in zip(value, expected, strict=True)}
        return next((r for r in _WORST_FIRST if r in results), "equal")
    if not isinstance(value, str) or not isinstance(expected, str):
        return "different"
    if value == expected or value.partition("?token=")[0] == expected:
        return "equal"
    return "unknown" if _REPLACED.match(value) else "different"
