"""Generations and their images."""

from datetime import datetime
from uuid import UUID

from pydantic import JsonValue

from picture_queue.records.base import Record
from picture_queue.records.jobs import JobExplanation, JobStatus


class Image(Record):
    """A picture in the bucket ``pictures``.

    Attributes:
        n: Number in the generation, from 1.
        path: Path in the bucket.
        width: Width in pixels, after the rotation that the file specifies in its EXIF metadata;
            None for a vector picture that does not specify it.
        height: Height in pixels, after the same rotation.
        bytes: Size of the file.
        sha256: SHA-256 of the file, in hexadecimal digits.
        blurhash: A placeholder to show while the picture loads (https://blurha.sh); None if the
            picture has no thumbnail.
        thumbnail_path: Path of the thumbnail in the bucket, a WebP; None if there is none.
    """

    id: UUID
    generation_id: UUID
    n: int
    path: str
    mime_type: str
    width: int | None
    height: int | None
    bytes: int | None
    sha256: str | None = None
    blurhash: str | None = None
    thumbnail_path: str | None = None
    created_at: datetime


class MissingImage(Record):
    """A picture that was made and could not be stored.

    Attributes:
        n: Number in the generation, from 1.
        reason: The reason why it could not be stored, as a text for the owner.
    """

    n: int
    reason: str


class Generation(Record):
    """A request for pictures; ``status`` is the status of its job.

    Attributes:
        batch_id: The batch or chain of the generation; None: it was started alone.
        batch_position: The position of its request in the batch, from 0; in a chain always 0.
        batch_step: The step in the chain of the request, from 0.
        kind: The kind of the generation, such as ``text-to-image``, which decides its job type.
        model_version: The version that the model had in the catalogue at the start.
        input: The inputs that are sent to the model, after the rules of the project were applied.
        favourite: True if its owner has marked it as a favourite.
        images: The stored pictures.
        missing_images: Pictures of a completed generation that could not be stored.
    """

    id: UUID
    user_id: UUID | None
    job_id: UUID
    batch_id: UUID | None = None
    batch_position: int | None = None
    batch_step: int | None = None
    kind: str = "text-to-image"
    model_id: str
    model_version: str | None = None
    prompt: str
    input: dict[str, JsonValue]
    status: JobStatus
    error: str | None
    favourite: bool = False
    images: tuple[Image, ...] = ()
    missing_images: tuple[MissingImage, ...] = ()
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    #: The expected cost, and after the end the actual cost; None if it is not known.
    cost_usd: float | None = None
    cost_is_estimate: bool = False


class StartedGeneration(Record):
    """A started generation: its id, and the id and status of its job.

    Attributes:
        warnings: A sentence for each input that the project does not know and sends unchecked.
        reused: True if the call started nothing, because an equal generation had completed before.
        batch_id: The batch that has all generations of a chain; None without further steps.
        steps: The further steps of a chain.
    """

    id: UUID
    job_id: UUID
    status: JobStatus
    warnings: tuple[str, ...] = ()
    reused: bool = False
    batch_id: UUID | None = None
    steps: tuple["StartedGeneration", ...] = ()


class StartedBatch(Record):
    """A started batch of generations.

    Attributes:
        generations: The generations in the order of the requests, each with its further steps.
        warnings: Inputs that the project does not know and passes on unchecked.
    """

    id: UUID
    generations: tuple[StartedGeneration, ...]
    warnings: tuple[str, ...] = ()


class BatchGeneration(Record):
    """A generation in a batch.

    Attributes:
        hold: The reason why its job cannot run yet; None: it can, or has.
        progress: The progress of its job in percent.
        position: The position of its request in the batch, from 0; in a chain always 0.
        step: The step in the chain of the request, from 0.
    """

    id: UUID
    job_id: UUID
    kind: str
    status: JobStatus
    hold: str | None = None
    progress: int
    message: str | None = None
    error: str | None
    position: int
    step: int


class GenerationBatch(Record):
    """A batch of generations, or a chain. Deleted generations are left out.

    Attributes:
        progress: The mean progress of the generations in percent; an ended one counts as 100.
        status: ``pending`` until the first generation has started, ``processing`` until the last
            has ended; then ``failed`` if any failed, else ``cancelled`` if any was cancelled, else
            ``completed``.
        cost_usd: The cost of all generations: expected, or actual after the end; None: not known.
        generations: The generations in the order of the requests and their steps.
        explanation: The reason why the first generation that has not ended does not run, in a state
            that `watch_batch` yields.
    """

    id: UUID
    user_id: UUID | None = None
    total: int
    completed: int
    failed: int
    cancelled: int
    progress: int
    status: JobStatus
    cost_usd: float | None = None
    generations: tuple[BatchGeneration, ...]
    explanation: JobExplanation | None = None

    @property
    def finished(self) -> bool:
        """True if all generations have ended."""
        return self.status in ("completed", "failed", "cancelled")


class BatchCancelRequest(Record):
    """The numbers of generations of a batch by state, after a request to cancel all.

    Attributes:
        cancel_requested: Generations that still run, and whose workers are asked to stop.
    """

    id: UUID
    total: int
    completed: int
    failed: int
    cancelled: int
    cancel_requested: int


class DeletedGeneration(Record):
    """A deleted generation whose files still exist: their folder, and the paths of its images."""

    generation_id: UUID
    folder: str
    paths: tuple[str, ...]
