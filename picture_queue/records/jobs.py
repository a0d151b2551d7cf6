"""Jobs, their history, and the results of calls about them."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import AliasChoices, Field, JsonValue

from picture_queue.records.base import Record


class JobStatus(StrEnum):
    """State of a job. The field ``hold`` tells why an unfinished job does not run."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """True for completed, failed and cancelled; only an explicit retry leaves these states."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


#: The reason why an unfinished job cannot be claimed.
Hold = Literal["scheduled", "blocked", "waiting", "parked"]

#: The origin of the state in a `JobEvent`.
Source = Literal["socket", "snapshot", "poll"]


class Job(Record):
    """A row of ``job_queue``."""

    id: UUID
    seq: int
    queue: str
    job_type: str
    payload: dict[str, JsonValue]
    priority: int
    status: JobStatus
    hold: Hold | None
    attempt: int
    max_attempts: int
    scheduled_for: datetime | None
    expires_at: datetime | None = None
    tags: tuple[str, ...] | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    tenant: str | None = None
    limit_keys: tuple[str, ...] | None = None
    blocked_on: str | None = None
    parked_on: str | None = None
    batch_id: UUID | None = None
    user_id: UUID | None
    generation_id: UUID | None
    idempotency_key: str | None
    progress: int
    message: str | None
    result: Any = None
    error: str | None
    version: int
    worker: str | None
    cancel_requested_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """True if the job is completed, failed or cancelled."""
        return self.status.finished


class JobEvent(Record):
    """The visible state of a job at one version.

    ``source`` is the origin of the state: ``socket`` (an event over Realtime), ``snapshot`` (the
    row, read when the watch began or reconnected) or ``poll`` (the row, read after a time without
    events). If the watch yields an unchanged state again, ``explanation`` has the reason why the
    job does not run.
    """

    job_id: UUID
    job_type: str
    queue: str
    status: JobStatus
    hold: Hold | None
    progress: int
    message: str | None
    attempt: int
    version: int
    at: datetime
    generation_id: UUID | None = None
    error: str | None = None
    source: Source = "socket"
    explanation: "JobExplanation | None" = None

    @property
    def finished(self) -> bool:
        """True for the last event of a watch."""
        return self.status.finished

    @classmethod
    def of(cls, job: Job, source: Source) -> "JobEvent":
        """Return the visible state of a row."""
        return cls(
            **{
                name: getattr(job, name)
                for name in cls.model_fields.keys() & Job.model_fields.keys()
            },
            job_id=job.id,
            at=job.updated_at,
            source=source,
        )


class Enqueued(Record):
    """The outcome of an enqueue.

    ``created``: a new job. ``existing``: a job with the same id, idempotency key or unique key
    existed. ``replaced``, ``debounced``: a job with the same unique key existed and was changed.
    """

    id: UUID = Field(validation_alias=AliasChoices("id", "job_id"))
    outcome: Literal["created", "existing", "replaced", "debounced"]


class CancelRequest(Record):
    """The result of a cancel.

    ``cancel_requested`` is True if the job was running, so that its worker was asked to stop it.
    """

    job_id: UUID
    status: JobStatus
    cancel_requested: bool


class Changed(Record):
    """The number of jobs that a call changed. A preview changes none and only counts ``matched``.

    ``more`` is True if more jobs match than one call may change; another call changes the rest.
    """

    matched: int
    changed: int
    more: bool


class FailureReason(Record):
    """A group of failed jobs whose errors are equal, apart from ids, numbers and quoted text."""

    reason: str
    count: int
    job_types: tuple[str, ...]
    first_at: datetime
    last_at: datetime
    example_job_id: UUID


class JobPosition(Record):
    """The position of a job in its queue, from 1; None if the job is not ready to run.

    Positions are counted up to 10,000. ``at_least`` is True if the job is even further back.
    """

    position: int | None
    at_least: bool


class JobReason(Record):
    """One reason why a job does not run.

    The fields after ``until`` are set for some reasons only.

    Attributes:
        reason: finished, running, waiting_for_worker, no_worker, queue_paused, key_paused, limit,
            scheduled, retry, parents, event, lease_expired, step_failed, no_maintenance, unknown,
            or a reason that a newer database adds.
        detail: The reason as a sentence.
        until: The time when the reason ends, if known.
        key: The limit key (for the reasons limit and key_paused).
        max_running: Maximum number of jobs of the key that run at once (limit).
        running: Number of jobs of the key that run now (limit).
        rate: Maximum number of jobs that start in a period (limit).
        period_seconds: Length of the period (limit).
        queue: The queue (no_worker, queue_paused).
        job_type: The job type (no_worker).
        pause_reason: The text of the operator (queue_paused) or of a handler (key_paused).
        parents: Up to 10 jobs that have to finish first (parents).
        parent_count: Number of jobs that have to finish first; 100 means 100 or more (parents).
        event: The name of the event (event).
        worker: The worker (running, lease_expired).
        step: The step of maintenance (step_failed).
        error: The error (step_failed, retry), or the reason that a handler gave for a snooze
            (scheduled).
    """

    reason: str
    detail: str
    until: datetime | None
    key: str | None = None
    max_running: int | None = None
    running: int | None = None
    rate: int | None = None
    period_seconds: float | None = None
    queue: str | None = None
    job_type: str | None = None
    pause_reason: str | None = None
    parents: tuple[UUID, ...] = ()
    parent_count: int | None = None
    event: str | None = None
    worker: str | None = None
    step: str | None = None
    error: str | None = None


class JobExplanation(JobReason):
    """The reason why a job does not run; if there are several reasons, the first of them.

    Attributes:
        job_id: The job.
        status: The status of the job; None if there is no such job.
        hold: The column ``hold`` of the job.
        reasons: All reasons, beginning with this reason; empty if there is only one reason.
    """

    job_id: UUID | None
    status: JobStatus | None
    hold: Hold | None
    reasons: tuple[JobReason, ...] = ()

    @property
    def waits(self) -> bool:
        """False if the job is running or has finished."""
        return self.reason not in ("running", "finished")


class Transition(Record):
    """A change of the state of a job."""

    at: datetime
    action: str
    status: JobStatus
    hold: Hold | None = None
    attempt: int
    worker: str | None = None
    error: str | None = None


class FailedAttempt(Record):
    """An attempt that failed; ``detail`` is internal, such as a traceback."""

    attempt: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime
    duration_seconds: float | None
    error: str | None
    detail: str | None


class LogLine(Record):
    """A line that a handler logged about its job."""

    at: datetime
    attempt: int
    level: Literal["debug", "info", "warning", "error"]
    message: str


class JobHistory(Record):
    """The history of a job.

    ``timeline`` has the last 50 changes of state, ``attempts`` the failed attempts that are kept,
    and ``log`` the last 200 lines.
    """

    timeline: tuple[Transition, ...]
    attempts: tuple[FailedAttempt, ...]
    log: tuple[LogLine, ...]
