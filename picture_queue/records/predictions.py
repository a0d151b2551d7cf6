"""Predictions of a generation, which only its worker can read."""

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from picture_queue.records.base import Record
from picture_queue.records.generations import MissingImage

FinalState = Literal["succeeded", "failed", "canceled", "aborted", "lost"]


class PredictionOwner(Record):
    """The generation that a prediction belongs to."""

    id: UUID
    user_id: UUID | None = None
    missing_images: tuple[MissingImage, ...] = ()


class PredictionModel(Record):
    """The model to call.

    Attributes:
        official: True if the model has its own endpoint; otherwise it is called by
            ``version``.
        typical_seconds: Typical run time of a prediction; None if it is not known.
        progress_in_logs: ``percent`` if the logs have progress bars.
        inputs: The inputs of the model; those with the ``format`` ``uri`` are files.
    """

    model_id: str
    official: bool | None = None
    version: str | None = None
    typical_seconds: float | None = None
    progress_in_logs: str | None = None
    inputs: tuple[dict[str, Any], ...] = ()

    @property
    def file_inputs(self) -> frozenset[str]:
        """The names of the inputs that are files."""
        return frozenset(rule["name"] for rule in self.inputs if rule.get("format") == "uri")


class PredictionRow(Record):
    """A row of ``picture_queue.prediction``.

    The row is committed before its prediction is created at the provider.

    Attributes:
        provider: Name of the provider of the prediction.
        state: ``creating`` until the id of the prediction is recorded, then ``created``;
            ``succeeded`` once the images are saved. Another final state only if the row was asked
            for by its id, to search for its prediction.
        prediction_id: The id of the prediction at the provider; None until it is recorded.
        input: The input to send to the model.
    """

    id: UUID
    provider: str = "replicate"
    state: Literal["creating", "created"] | FinalState
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
        sha256: SHA-256 of the file, in hexadecimal digits.
        blurhash: A placeholder; None if there is no thumbnail.
        thumbnail_path: Path of the thumbnail in the bucket; None if there is none.
    """

    n: int
    path: str
    mime_type: str
    width: int | None
    height: int | None
    bytes: int
    sha256: str | None = None
    blurhash: str | None = None
    thumbnail_path: str | None = None


class BegunPrediction(Record):
    """The result of `begin_prediction`.

    Attributes:
        prediction: A new row, or the unfinished row of an earlier attempt.
        age_seconds: Time since the creation of the row.
        resumed: True if an earlier attempt created the row.
        owned: Ids of the provider's predictions of the last two hours that belong to other rows. A
            search for the lost prediction of this row excludes them. Empty unless an earlier
            attempt created this row and it is in the state ``creating``, or the row was asked for
            by its id: only then its prediction may be lost.
        rows_without_id: The rows of other generations with the same model whose predictions are
            not recorded. They may be live, or given up as lost or cancelled. Each may have created
            a prediction. Empty when ``owned`` is; at most 1000.
        equal_rows_without_id: Those of ``rows_without_id`` that are live and have an equal input.
            Each may have created a prediction that looks like that of this row.
        images: Images of the prediction that are already saved.
        saved_paths: The paths of all files of the generation that have a row, also of earlier
            predictions.
        files: The paths in Storage of the pictures of generations that the input names, such as
            ``generation:<id>/1``. Pictures that do not exist are left out.
        strip_metadata: True if metadata is to be removed from the pictures.
        running: Number of predictions of the project that have not ended, up to 10,000.
    """

    generation: PredictionOwner
    model: PredictionModel
    prediction: PredictionRow
    age_seconds: float
    resumed: bool
    owned: frozenset[str] = frozenset()
    rows_without_id: tuple[UUID, ...] = ()
    equal_rows_without_id: tuple[UUID, ...] = ()
    images: tuple[SavedImage, ...] = ()
    saved_paths: frozenset[str] = frozenset()
    files: dict[str, str] = Field(default_factory=dict)
    strip_metadata: bool = True
    running: int = 0


class ReceivedPrediction(Record):
    """The result of `receive_prediction`.

    Attributes:
        outcome: ``applied`` if the status was new, ``repeated`` if the row had it already,
            ``ignored`` if the prediction of the row has ended, or the row belongs to another
            prediction.
        woken: Number of jobs that the webhook woke.
    """

    outcome: Literal["applied", "repeated", "ignored"]
    woken: int = 0
