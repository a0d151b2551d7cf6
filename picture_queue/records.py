"""What the database holds, as values. They know no client and do no I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from picture_queue.errors import InvalidArgument


class JobStatus(StrEnum):
    """Where a job is; ``hold`` says why a job that is not finished does not move."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether no change follows, short of an explicit retry."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


Hold = Literal["scheduled", "blocked", "waiting", "parked"]
Source = Literal["socket", "snapshot", "poll"]


class Record(BaseModel):
    """Base of all records: frozen, and indifferent to columns a newer database adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


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
        """Whether the job is completed, failed or cancelled."""
        return self.status.finished


class ClaimedJob(Record):
    """A job as its worker gets it, with the lease that fences every later write.

    ``event`` is what came with the outside event that woke it, None where none did.
    """

    id: UUID
    queue: str
    job_type: str
    payload: dict[str, JsonValue]
    priority: int
    attempt: int
    max_attempts: int
    user_id: UUID | None
    generation_id: UUID | None
    batch_id: UUID | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = {}
    event: Any = None
    progress: int
    message: str | None
    cancel_requested_at: datetime | None
    created_at: datetime
    scheduled_for: datetime | None
    started_at: datetime
    worker: str
    version: int
    lease_id: UUID
    lease_seconds: float
    timeout_seconds: float


BackoffPolicy = Literal["constant", "linear", "exponential"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a job waits between its attempts.

    What is None is looked for in the job's type, then its queue, then the project's settings.

    Args:
        policy: The pause stays the same, grows by its first length, or doubles each time.
        base: The first pause, seconds.
        cap: The longest pause, seconds.
        jitter: Random part of a pause, both ways, 0 to 1.

    Raises:
        InvalidArgument: Naming the part and its value.
    """

    policy: BackoffPolicy | None = None
    base: float | None = None
    cap: float | None = None
    jitter: float | None = None

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy not in get_args(BackoffPolicy):
            raise InvalidArgument(
                f"The backoff's policy is {self.policy!r}",
                hint=f"Choose {', '.join(get_args(BackoffPolicy))}",
            )
        year = 31_536_000.0
        for name, low, high in (("base", 0.001, year), ("cap", 0.001, year), ("jitter", 0.0, 1.0)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidArgument(
                    f"The backoff's {name} is {value}", hint=f"Choose {low:g} to {high:g}"
                )


class JobEvent(Record):
    """The visible state of a job at one version.

    ``source`` says where it was learnt: ``socket`` (an event over Realtime), ``snapshot`` (the row,
    read when the watch began or reconnected) or ``poll`` (the row, read because it was quiet).
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

    @property
    def finished(self) -> bool:
        """Whether this is the last event of a watch."""
        return self.status.finished

    @classmethod
    def of(cls, job: Job, source: Source) -> "JobEvent":
        """Returns the visible state of a row."""
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
    """What became of an enqueue: a new job, or one that was there (same id or idempotency key)."""

    id: UUID
    outcome: Literal["created", "existing"]


class CancelRequest(Record):
    """The answer to a cancel: cancelled at once, or asked to stop."""

    job_id: UUID
    status: JobStatus
    cancel_requested: bool


class Image(Record):
    """A picture in the bucket ``pictures``."""

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
    """What somebody asked for; its status follows the job."""

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


class StartedGeneration(Record):
    """The answer to a start: the ids to follow it by."""

    id: UUID
    job_id: UUID
    status: JobStatus


class Model(Record):
    """A model on offer; ``inputs`` has the name, type and bounds of each input."""

    model_id: str
    kind: str
    inputs: tuple[dict[str, Any], ...]
    typical_seconds: float | None
    price_usd_per_image: float | None
    default: bool = False


class QueueHealth(Record):
    """One row of the view ``queue_health``."""

    queue: str
    pending: int
    scheduled: int
    processing: int
    parked: int
    failed_last_day: int
    oldest_pending_seconds: float
    workers: int


class WorkerSeen(Record):
    """A worker heard of in the last minute."""

    worker: str
    queues: tuple[str, ...]
    job_types: tuple[str, ...]
    idle: bool
    seen_at: datetime


class WaitingType(Record):
    """Pending jobs of a type that no worker of their queue knows."""

    job_type: str
    queue: str
    pending: int


class Health(Record):
    """What an operator asks first."""

    queues: tuple[QueueHealth, ...]
    workers: tuple[WorkerSeen, ...]
    job_types_without_worker: tuple[WaitingType, ...]
    stuck: int


class Version(Record):
    """The version of picture-queue in a database."""

    version: str
    contract: int
    oldest_client_contract: int
