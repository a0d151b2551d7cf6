"""Predictions of a generation, which only its worker can read."""

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from picture_queue.records.base import Record

FinalState = Literal["succeeded", "failed", "canceled", "aborted", "lost"]


class PredictionOwner(Record):
    """The generation that a prediction belongs to."""

    id: UUID
    user_id: UUID | None = None


class PredictionModel(Record):
    """The model to call.

    Attributes:
        official: True if the model has its own endpoint; otherwise it is called by
            ``version``.
        typical_seconds: Typical run time of a prediction; None if it is not known.
        progress_in_logs: ``percent`` if the logs have progress bars.
    """

    model_id: str
    official: bool | None = None
    version: str | None = None
    typical_seconds: float | None = None
    progress_in_logs: str | None = None


class PredictionRow(Record):
    """A row that is committed before its prediction is created at the provider.

    Attributes:
        provider: Name of the provider of the prediction.
        state: ``creating`` until the id of the prediction is recorded, then ``created``;
            ``succeeded`` once the images are saved.
        prediction_id: The id of the prediction at the provider; None until it is recorded.
        input: The input to send to the model.
    """

    id: UUID
    provider: str = "replicate"
    state: Literal["creating", "created", "succeeded"]
    prediction_id: str | None = None
    input: dict[str, Any] = Field(repr=False)
    created_at: AwareDatetime


class SavedImage(Record):
    """A picture in Storage.

    Attributes:
        n: Number in the generation, from 1.
        path: Path in the bucket ``pictures``.
        width: Width in pixels; None for a vector picture that does not specify it.
        height: Height in pixels; None for a vector picture that does not specify it.
        bytes: Size of the file.
    """

    n: int
    path: str
    mime_type: str
    width: int | None
    height: int | None
    bytes: int


class BegunPrediction(Record):
    """The result of `begin_prediction`.

    Attributes:
        prediction: A new row, or the unfinished row of an earlier attempt.
        age_seconds: Time since the creation of the row.
        resumed: True if an earlier attempt created the row.
        owned: Ids of the provider's predictions of the last two hours that belong to a row.
        images: Images of the generation that are already saved.
        running: Number of predictions of the project that have not ended, up to 10,000.
    """

    generation: PredictionOwner
    model: PredictionModel
    prediction: PredictionRow
    age_seconds: float
    resumed: bool
    owned: frozenset[str] = frozenset()
    images: tuple[SavedImage, ...] = ()
    running: int = 0


class ReceivedPrediction(Record):
    """The result of `receive_prediction`.

    Attributes:
        outcome: ``applied`` if the status was new, ``repeated`` if it was not, ``ignored`` if the
            row has ended or is not that of the prediction.
        woken: Number of jobs that the webhook woke.
    """

    outcome: Literal["applied", "repeated", "ignored"]
    woken: int = 0
