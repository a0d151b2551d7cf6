"""Version, health, checks and maintenance of a project."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict

from picture_queue.records.base import Record
from picture_queue.records.workers import WorkerSeen


class Version(Record):
    """The version of picture-queue in a database.

    ``contract`` is the version of its SQL interface. Clients that need a version older than
    ``oldest_client_contract`` cannot use it.
    """

    version: str
    contract: int
    oldest_client_contract: int


class QueueHealth(Record):
    """A row of the view ``queue_health``.

    ``failed_last_day`` counts the jobs that failed in the last 24 hours and are still failed, among
    the newest 10,000 failed jobs of all queues. A pause without ``resume_at`` lasts until a resume.
    """

    queue: str
    pending: int
    scheduled: int
    processing: int
    parked: int
    failed_last_day: int
    oldest_pending_seconds: float
    workers: int
    paused: bool = False
    resume_at: datetime | None = None
    pause_reason: str | None = None
    draining: bool = False


class JobTypeWithoutWorker(Record):
    """Pending jobs of a type for which no worker of their queue has a handler."""

    job_type: str
    queue: str
    pending: int


class Health(Record):
    """The state of queues and workers.

    ``stuck`` counts the jobs that have run for over ten minutes, or have an expired lease.
    """

    queues: tuple[QueueHealth, ...]
    workers: tuple[WorkerSeen, ...]
    job_types_without_worker: tuple[JobTypeWithoutWorker, ...]
    stuck: int


class Finding(Record):
    """The result of one check of the doctor; ``remedy`` is the fix of a problem."""

    check: str
    verdict: Literal["ok", "warn", "bad"]
    detail: str
    remedy: str | None = None


class Maintenance(Record):
    """The result of a call for maintenance.

    ``leased`` is True if this call did a round of maintenance, and False if another worker holds
    the maintenance lease. ``next_in`` is the number of seconds until the next call; 0 means that
    more work is waiting.

    The other fields count the work of the round: ``promoted`` jobs, ``swept`` leases, ticks of
    schedules (``scheduled``), and follow-ups, batches and events (``resolved``). ``failed`` counts
    the steps that have failed, in this round or before, and will be tried again.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    leased: bool
    next_in: float
    promoted: int = 0
    swept: int = 0
    scheduled: int = 0
    resolved: int = 0
    failed: int = 0
