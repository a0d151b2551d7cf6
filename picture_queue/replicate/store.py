"""The rows and files that the handler of generations reads and writes.

An interface, so that this package knows neither transport nor worker. Every method acts for one
job under its lease, and every one may be called again with the same arguments.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class GenerationRow(_Row):
    """The generation the job is about."""

    id: UUID
    user_id: UUID | None = None


class ModelRow(_Row):
    """The model to call, and its input.

    Attributes:
        official: True: through its own endpoint; else by ``version``.
        typical_seconds: Running time, None where nobody has seen it.
    """

    model_id: str
    official: bool | None = None
    version: str | None = None
    typical_seconds: float | None = None


class PredictionRow(_Row):
    """The row committed before a prediction is created.

    Attributes:
        state: ``creating`` until the id is known, ``created`` from then on, ``succeeded`` once the
            images are saved.
        prediction_id: Replicate's id.
        input: What to send.
    """

    id: UUID
    state: Literal["creating", "created", "succeeded"]
    prediction_id: str | None = None
    input: dict[str, Any] = Field(repr=False)
    created_at: AwareDatetime


class SavedImage(_Row):
    """One picture in Storage.

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


class Begun(_Row):
    """The answer of `GenerationStore.begin`.

    Attributes:
        prediction: A new row, or the one another attempt left behind.
        resumed: The row was there before.
        owned: Prediction ids that belong to rows, of the last two hours.
        images: Images of the generation that are already saved.
    """

    generation: GenerationRow
    model: ModelRow
    prediction: PredictionRow
    resumed: bool
    owned: frozenset[str] = frozenset()
    images: tuple[SavedImage, ...] = ()


FinalState = Literal["succeeded", "failed", "canceled", "aborted", "lost"]


class GenerationStore(Protocol):
    """Rows and files of one job.

    All methods raise `picture_queue.errors.StaleLease` once the lease has ended: the job belongs
    to another worker then, and nothing was changed.
    """

    async def begin(self) -> Begun:
        """Commits a row in state ``creating``, or gives back the row of an earlier attempt."""
        ...

    async def record(self, row_id: UUID, prediction_id: str) -> None:
        """Stores the id of the prediction.

        Raises:
            Conflict: Another row owns that prediction.
        """
        ...

    async def finish(
        self,
        row_id: UUID,
        state: FinalState,
        *,
        error: str | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        """Ends the row. Does nothing to a row that has ended.

        Args:
            row_id: The row.
            state: ``lost`` means that the outcome is unknown and nothing was found.
            error: For operators; never shown to the owner.
            metrics: As Replicate sent them.
        """
        ...

    async def upload(self, path: str, data: bytes, content_type: str) -> None:
        """Writes a file to the bucket ``pictures``, over one of that path."""
        ...

    async def save_images(self, images: Sequence[SavedImage]) -> None:
        """Writes the images of the generation."""
        ...
