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
    """A request for pictures; its status is that of its job."""

    id: UUID
    user_id: UUID | None
    job_id: UUID
    model_id: str
    prompt: str
    input: dict[str, JsonValue]
    status: JobStatus
    error: str | None
    images: tuple[Image, ...] = ()
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    #: The expected cost; after the end the actual cost; None: it is not known.
    cost_usd: float | None = None
    cost_is_estimate: bool = False


class StartedGeneration(Record):
    """A started generation: its id, and the id and status of its job."""

    id: UUID
    job_id: UUID
    status: JobStatus
