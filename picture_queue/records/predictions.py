"""Predictions: the rows behind a generation, which only its worker sees."""

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
        official: True: through its own endpoint; else by ``version``.
        typical_seconds: Running time, None where nobody has seen it.
    """

    model_id: str
    official: bool | None = None
    version: str | None = None
    typical_seconds: float | None = None


class PredictionRow(Record):
    """The row that is committed before a prediction is created.

    Attributes:
        state: ``creating`` until the id is known, ``created`` from then on, ``succeeded`` once the
            images are saved.
        prediction_id: The provider's id.
        input: What to send.
    """

    id: UUID
    state: Literal["creating", "created", "succeeded"]
    prediction_id: str | None = None
    input: dict[str, Any] = Field(repr=False)
    created_at: AwareDatetime


class SavedImage(Record):
    """A picture in Storage.

    Attributes:
        n: Number within the generation, from 1.
        path: Path in the bucket ``pictures``.
        width: Pixels, None for a vector picture that does not say.
        height: Likewise.
        bytes: Size of the file.
    """

    n: int
    path: str
    mime_type: str
    width: int | None
    height: int | None
    bytes: int


class BegunPrediction(Record):
    """The answer of `begin_prediction`.

    Attributes:
        prediction: A new row, or the one another attempt left behind.
        resumed: The row was there before.
        owned: Prediction ids that belong to rows, of the last two hours.
        images: Images of the generation that are already saved.
    """

    generation: PredictionOwner
    model: PredictionModel
    prediction: PredictionRow
    resumed: bool
    owned: frozenset[str] = frozenset()
    images: tuple[SavedImage, ...] = ()
