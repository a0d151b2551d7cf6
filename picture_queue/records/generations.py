"""Generations and their images."""

from datetime import datetime
from uuid import UUID

from pydantic import JsonValue

from picture_queue.records.base import Record
from picture_queue.records.jobs import JobStatus


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
    """

    id: UUID
    job_id: UUID
    status: JobStatus
    warnings: tuple[str, ...] = ()
    reused: bool = False


class DeletedGeneration(Record):
    """A deleted generation whose files still exist: their folder, and the paths of its images."""

    generation_id: UUID
    folder: str
    paths: tuple[str, ...]
