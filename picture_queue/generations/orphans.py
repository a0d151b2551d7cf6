"""Find the prediction of a create whose answer was lost.

The API has no idempotency key and takes no mark of ours. What a prediction shows is its model, its
input, its time, and its deadline: the deadline counts from creation and we choose it, so each row
asks for a slightly different one. That tells twins apart where many jobs have the same input.
"""

from collections.abc import Container, Iterable
from datetime import timedelta

from picture_queue.providers.replicate.prediction import Prediction
from picture_queue.records import BegunPrediction, PredictionRow

CLOCK_SKEW = timedelta(seconds=5)
"""Seconds that the database's clock may be ahead of Replicate's."""

_SPREAD = 97  # seconds; a prime, so that no pattern in ids makes neighbours alike
_TOLERANCE = timedelta(seconds=0.6)


def cancel_after(row: PredictionRow, deadline: float) -> int:
    """Return the seconds for ``Cancel-After``: the deadline and a little more, by row."""
    return round(deadline) + row.id.int % _SPREAD


def candidates(
    begun: BegunPrediction, listed: Iterable[Prediction], taken: Container[str], asked: int
) -> list[Prediction]:
    """Return the predictions that a row's create can have made.

    Args:
        begun: The row, its model and its input.
        listed: Predictions of the account since the row's time.
        taken: Ids that belong to other rows.
        asked: Seconds the row asked for in ``Cancel-After``.

    Returns:
        The likeliest first: those with the row's own deadline, then the oldest.
    """
    row = begun.prediction
    found = [
        prediction
        for prediction in listed
        if prediction.id not in taken
        and prediction.model == begun.model.model_id
        and prediction.created_at >= row.created_at - CLOCK_SKEW
        and _same_input(prediction, row)
    ]
    return sorted(found, key=lambda one: (not is_certain(one, asked), one.created_at))


def is_certain(prediction: Prediction, asked: int) -> bool:
    """Return whether a prediction has the deadline that the row asked for."""
    if prediction.deadline is None:
        return False
    span = prediction.deadline - prediction.created_at
    return abs(span - timedelta(seconds=asked)) <= _TOLERANCE


def _same_input(prediction: Prediction, row: PredictionRow) -> bool:
    # The API may add defaults; what we sent has to be there unchanged.
    missing = object()
    return all(prediction.input.get(key, missing) == value for key, value in row.input.items())
