"""The values that operators see: queues, limits, schedules, batches, settings. See `records`."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import ConfigDict, JsonValue

from picture_queue.records import Enqueued, Record


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


class Limit(Record):
    """The limit of a key, or a key that is paused or waited for.

    ``max_running`` jobs run at once; ``rate`` start in any ``period_seconds``.
    """

    key: str
    max_running: int | None
    rate: int | None
    period_seconds: float | None
    paused: bool
    resume_at: datetime | None
    running: int
    waiting: int


class PausedKey(Record):
    """A paused or resumed limit key; ``resume_at`` None: it stays so until it is resumed."""

    key: str
    paused: bool
    resume_at: datetime | None


class Tenant(Record):
    """The weight of a tenant where tenants share a queue."""

    tenant: str
    weight: float


class Schedule(Record):
    """A schedule of recurring jobs. ``job`` has their type, payload and options.

    ``last_error`` says why the latest tick made no job, None if it did.
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


class Batch(Record):
    """Jobs that belong together: how many there are and how they ended, ``progress`` in percent."""

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
    """A new batch and what became of each of its jobs."""

    id: UUID
    jobs: tuple[Enqueued, ...]


class Finding(Record):
    """One check of the doctor: its verdict, what it saw, and what to do about it."""

    check: str
    verdict: Literal["ok", "warn", "bad"]
    detail: str
    remedy: str | None = None


class Setting(Record):
    """The defaults and limits of a project; the SQL reference says what each means."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    max_payload_bytes: int
    max_result_bytes: int
    max_prompt_length: int
    max_attempts: int
    timeout_seconds: float
    timeout_grace_seconds: float
    cancel_grace_seconds: float
    lease_seconds: float
    backoff_policy: str
    backoff_seconds: float
    backoff_cap_seconds: float
    backoff_jitter: float
    unknown_queue: Literal["create", "refuse"]
    keep_completed_seconds: float
    keep_cancelled_seconds: float
    keep_failed_seconds: float
    archive: bool
    keep_archive_months: int
    default_model: str
