"""Find the prediction of a create call whose answer was lost.

The API has no idempotency key and accepts no metadata. A prediction can be recognised only by its
model, input, time of creation and deadline. We choose the deadline, so each row requests a slightly
different one. This distinguishes the predictions of jobs with the same input.
"""

from collections.abc import Iterable
from datetime import timedelta

from picture_queue.providers.base import PredictionRequest
from picture_queue.providers.replicate.prediction import Prediction

#: The clock of the database may be this much ahead of Replicate's.
CLOCK_SKEW = timedelta(seconds=5)
#: The search ends at this time after the commit of the row. A worker that is suspended for longer
#: between the commit and the call may still create a prediction, which its deadline then ends.
MAX_DELAY = timedelta(minutes=15)
_SPREAD = 97  # seconds; a prime number, so that similar ids give different remainders
_TOLERANCE = timedelta(seconds=0.6)


def cancel_after(request: PredictionRequest) -> int:
    """Return the seconds for ``Cancel-After``: the timeout, plus 0 to 96 that depend on the row."""
    return round(request.timeout) + request.row_id.int % _SPREAD


def is_candidate(request: PredictionRequest, found: Prediction) -> bool:
    """Return whether the create call of a request may have created this prediction."""
    return (
        found.model == request.model_id
        and found.created_at >= request.created_at - CLOCK_SKEW
        and _has_input(found, request)
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


def _has_input(prediction: Prediction, request: PredictionRequest) -> bool:
    # The API may add defaults, but it does not change the inputs of the request. The URL of a file
    # is signed anew for each request.
    missing = object()
    return all(
        prediction.input.get(key, missing) == value
        for key, value in request.input.items()
        if key not in request.file_inputs
    )
