"""Workers, and the jobs they claim."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from picture_queue.records.base import Record


class WorkerSeen(Record):
    """A worker that called the database in the last minute.

    Attributes:
        worker: The name of the worker.
        queues: The queues it claims from.
        job_types: The job types that it has handlers for.
        idle: Whether its last claim got fewer jobs than it asked for.
        seen_at: The time of its last call.
        seen_seconds: Seconds since ``seen_at``, by the clock of the database.
        running: Number of jobs whose lease it holds.
    """

    worker: str
    queues: tuple[str, ...]
    job_types: tuple[str, ...]
    idle: bool
    seen_at: datetime
    seen_seconds: float = 0.0
    running: int = 0


class Unreadable(dict[str, str]):
    """A replacement for a field that cannot be read: ``{"unreadable": reason}``.

    Args:
        reason: The reason why the field cannot be read.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(unreadable=reason)

    @property
    def reason(self) -> str:
        """The reason why the field cannot be read."""
        return self["unreadable"]


class PartlyReadable(dict[str, Any]):
    """A row with an `Unreadable` in place of at least one field."""


class JobFields:
    """The fields of a claimed job that its handler can read.

    A field is converted when it is read, because most handlers read few fields and a worker may
    claim thousands of jobs a second.

    Args:
        row: The JSON object from `claim_jobs`; fields with a default may be missing.
    """

    __slots__ = ("_row",)

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row

    @property
    def id(self) -> UUID:
        """Id of the job."""
        return UUID(self._row["id"])

    @property
    def job_type(self) -> str:
        """Type of the job."""
        job_type: str = self._row["job_type"]
        return job_type

    @property
    def queue(self) -> str:
        """Queue of the job."""
        queue: str = self._row["queue"]
        return queue

    @property
    def payload(self) -> dict[str, Any]:
        """Payload of the job."""
        payload: dict[str, Any] = self._row["payload"]
        return payload

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return int(self._row["attempt"])

    @property
    def max_attempts(self) -> int:
        """Number of attempts before the job fails."""
        return int(self._row["max_attempts"])

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the job."""
        return tuple(self._row.get("tags") or ())

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the job."""
        metadata: dict[str, Any] = self._row.get("metadata") or {}
        return metadata

    @property
    def event(self) -> Any:
        """Payload of the external event that woke the parked job; None without such an event."""
        return self._row.get("event")

    @property
    def lease_id(self) -> UUID:
        """Id of the lease under which the job was claimed."""
        return UUID(self._row["lease_id"])

    @property
    def user_id(self) -> UUID | None:
        """Owner of the job; None if it has none."""
        return _uuid(self._row.get("user_id"))

    @property
    def generation_id(self) -> UUID | None:
        """Generation that the job produces; None for other jobs."""
        return _uuid(self._row.get("generation_id"))


class ClaimedJob(JobFields):
    """A claimed job with its lease.

    Each write for the job carries the id of this lease. After the lease has ended, the database
    refuses the write.

    Attributes:
        id_text: The id of the job as text, which is cheaper to compare and to send than a UUID.
        lease_id_text: The id of the lease as text.
    """

    __slots__ = ("id_text", "lease_id_text")

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.id_text: str = row["id"]
        self.lease_id_text: str = row["lease_id"]

    def __repr__(self) -> str:
        return f"ClaimedJob(id={self.id_text}, job_type={self.job_type!r}, attempt={self.attempt})"

    @property
    def unreadable(self) -> str | None:
        """A field of the row that Python cannot read, with the reason; None if there is none."""
        if type(self._row) is dict:  # `PartlyReadable` is the exception
            return None
        for name, value in self._row.items():
            if isinstance(value, Unreadable):
                return f"{name}: {value.reason}"
        return None

    @property
    def priority(self) -> int:
        """Priority of the job; a job with a higher priority is claimed first."""
        return int(self._row.get("priority", 0))

    @property
    def confirm_start(self) -> bool:
        """True if the start must be confirmed before the handler runs."""
        return bool(self._row.get("confirm_start"))

    @property
    def lease_seconds(self) -> float:
        """Length of the lease, in seconds."""
        return float(self._row["lease_seconds"])

    @property
    def timeout_seconds(self) -> float:
        """Maximum duration of this attempt, in seconds."""
        return float(self._row["timeout_seconds"])

    @property
    def version(self) -> int:
        """Version of the row when it was claimed."""
        return int(self._row["version"])

    @property
    def progress(self) -> int:
        """Progress that the last attempt reported, in percent."""
        return int(self._row.get("progress", 0))

    @property
    def message(self) -> str | None:
        """Message that the last attempt reported with its progress."""
        message: str | None = self._row.get("message")
        return message

    @property
    def batch_id(self) -> UUID | None:
        """Batch of the job; None if it has none."""
        return _uuid(self._row.get("batch_id"))

    @property
    def cancel_requested(self) -> bool:
        """True if a cancel was requested while the job was parked."""
        return self._row.get("cancel_requested_at") is not None

    @property
    def created_at(self) -> datetime:
        """Time at which the job was enqueued."""
        return datetime.fromisoformat(self._row["created_at"])

    @property
    def scheduled_for(self) -> datetime | None:
        """Earliest time to start; None if the job was not scheduled."""
        at = self._row.get("scheduled_for")
        return None if at is None else datetime.fromisoformat(at)


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """The answer to a heartbeat, as ids of jobs.

    Attributes:
        cancel: The jobs to cancel.
        lost: The jobs whose lease is lost.
        busy: The jobs whose lease was not extended, because another heartbeat was extending it, or
            because the time of the call was used up.
    """

    cancel: frozenset[str]
    lost: frozenset[str]
    busy: frozenset[str] = frozenset()
