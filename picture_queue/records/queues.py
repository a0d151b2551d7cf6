"""Queues and the counts of their jobs."""

from datetime import datetime
from typing import Literal

from picture_queue.records.base import Record


class Queue(Record):
    """A queue and its policy; a field that is None takes the project's default.

    ``jobs`` has the number of unfinished jobs by hold; jobs without a hold are counted by status.
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
    """The number of jobs of a queue in each state; a finished job counts until it is pruned.

    ``oldest_seconds`` is the waiting time of the oldest job that is ready to be claimed.
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
    """The recommended number of workers for the jobs that are running or ready to run.

    ``desired`` is a number of workers; ``running`` and ``ready`` are numbers of jobs.
    """

    desired: int
    running: int
    ready: int
