"""Generations and their images."""

from datetime import datetime
from uuid import UUID

from pydantic import JsonValue

from picture_queue.records.base import Record
from picture_queue.records.jobs import JobStatus


class Image(Record):
    """A picture in the bucket ``pictures``; ``n`` is its number in the generation, from 1."""

    id: UUID
    generation_id: UUID
    n: int
    path: str
    mime_type: str
    width: int | None
    height: int | None
    bytes: int | None
    created_at: datetime


class Generation(Record):
    """A request for pictures; its status is that of its job.

    ``model_version`` is the version that the model had in the catalogue at the start.
    ``favourite`` is True if its owner has marked it.
    """

    id: UUID
    user_id: UUID | None
    job_id: UUID
    model_id: str
    model_version: str | None = None
    prompt: str
    input: dict[str, JsonValue]
    status: JobStatus
    error: str | None
    favourite: bool = False
    images: tuple[Image, ...] = ()
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class StartedGeneration(Record):
    """A started generation: its id, and the id and status of its job.

    ``reused`` is True if it is an equal generation that had finished before the call.
    """

    id: UUID
    job_id: UUID
    status: JobStatus
    reused: bool = False


class DeletedGeneration(Record):
    """A deleted generation whose files still exist: their folder, and the paths of its images."""

    generation_id: UUID
    folder: str
    paths: tuple[str, ...]
