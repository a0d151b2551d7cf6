"""Schedules of recurring jobs."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from picture_queue.records.base import Record


class Schedule(Record):
    """A schedule of recurring jobs; ``job`` has their type, payload and options.

    ``missed`` selects the missed ticks that run; see `AsyncSchedules.set`. ``last_error`` is the
    reason why the latest tick created no job; None if it created one.
    """

    name: str
    cron: str | None
    every_seconds: float | None
    timezone: str
    job: dict[str, Any]
    missed: Literal["skip", "once", "all"]
    paused: bool
    next_at: datetime | None
    last_at: datetime | None
    last_job_id: UUID | None
    last_error: str | None
    created_at: datetime
    updated_at: datetime
