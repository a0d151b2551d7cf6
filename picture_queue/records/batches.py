"""Batches of jobs."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from picture_queue.records.base import Record
from picture_queue.records.jobs import Enqueued


class Batch(Record):
    """A batch of jobs.

    ``total`` counts its jobs, ``open`` those that have not finished, and ``completed``, ``failed``
    and ``cancelled`` those in that state. ``progress`` is the finished part in percent.
    """

    id: UUID
    total: int
    open: int
    completed: int
    failed: int
    cancelled: int
    progress: int
    callback: dict[str, Any] | None
    callback_job_id: UUID | None
    callback_error: str | None
    metadata: dict[str, JsonValue]
    created_at: datetime
    finished_at: datetime | None


class EnqueuedBatch(Record):
    """The id of an enqueued batch, and the outcome of each of its jobs."""

    id: UUID
    jobs: tuple[Enqueued, ...]
