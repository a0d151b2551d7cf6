"""Queues and the numbers of their jobs."""

from datetime import datetime
from typing import Literal

from picture_queue.records.base import Record


class Queue(Record):
    """A queue and its policy; None where the project's default holds.

    ``jobs`` has the number of unfinished jobs by hold, or by status where there is none.
    """

    name: str
    events: Literal["none", "status", "progress"]
    max_attempts: int | None
    timeout_seconds: float | None
    lease_seconds: float | None
    backoff_policy: str | None
    backoff_seconds: float | None
    backoff_cap_seconds: float | None
    backoff_jitter: float | None
    fair_share: bool
    aging_seconds: float | None
    breaker_failures: int | None
    breaker_seconds: float
    paused: bool
    resume_at: datetime | None
    pause_reason: str | None
    draining: bool
    jobs: dict[str, int]
    created_at: datetime


class QueueCounts(Record):
    """Number of jobs of a queue in each state; a finished job counts as long as it is kept.

    ``oldest_seconds`` is how long the oldest job that could be claimed has waited.
    """

    queue: str
    pending: int
    scheduled: int
    blocked: int
    waiting: int
    processing: int
    parked: int
    completed: int
    failed: int
    cancelled: int
    oldest_seconds: float | None
    finished_last_minute: int
    finished_last_hour: int


class DesiredWorkers(Record):
    """Recommended number of workers for the jobs that run (``running``) or could (``ready``)."""

    desired: int
    running: int
    ready: int
