"""Find the prediction of a create call whose answer was lost.

The API has no idempotency key and accepts no metadata. A prediction can be recognised only by its
model, input, time of creation and deadline. We choose the deadline, so each row requests a slightly
different one. This distinguishes the predictions of jobs with the same input.
"""

from collections.abc import Container, Iterable
from datetime import timedelta

from picture_queue.providers.base import PredictionRequest
from picture_queue.providers.replicate.prediction import Prediction

#: The clock of the database may be this much ahead of Replicate's.
CLOCK_SKEW = timedelta(seconds=5)
_SPREAD = 97  # seconds; a prime number, so that similar ids give different remainders
_TOLERANCE = timedelta(seconds=0.6)


def cancel_after(request: PredictionRequest) -> int:
    """Return the seconds for ``Cancel-After``: the timeout, plus 0 to 96 that depend on the row."""
    return round(request.timeout) + request.row_id.int % _SPREAD


def candidates(
    request: PredictionRequest, listed: Iterable[Prediction], taken: Container[str]
) -> list[Prediction]:
    """Return the predictions that the create call of a request may have created.

    Args:
        request: The request, with its model and input.
        listed: The predictions of the account since the creation of the row.
        taken: The ids of predictions that belong to other rows.

    Returns:
        The predictions, the most likely first: those with the requested deadline, then the oldest.
    """
    matching = [
        prediction
        for prediction in listed
        if prediction.id not in taken
        and prediction.model == request.model_id
        and prediction.created_at >= request.created_at - CLOCK_SKEW
        and _has_input(prediction, request)
    ]
    return sorted(
        matching,
        key=lambda prediction: (
            not has_requested_deadline(prediction, request),
            prediction.created_at,
        ),
    )


def has_requested_deadline(prediction: Prediction, request: PredictionRequest) -> bool:
    """Return whether a prediction has the deadline that the request asked for."""
    if prediction.deadline is None:
        return False
    span = prediction.deadline - prediction.created_at
    return abs(span - timedelta(seconds=cancel_after(request))) <= _TOLERANCE


def _has_input(prediction: Prediction, request: PredictionRequest) -> bool:
    # The API may add defaults, but it does not change the inputs of the request.
    missing = object()
    return all(prediction.input.get(key, missing) == value for key, value in request.input.items())
