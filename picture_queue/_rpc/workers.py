"""Calls that workers make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from picture_queue._rpc.base import Rpc, omit_none, parse_nothing
from picture_queue.records import ClaimedJob, HeartbeatAnswer, Version


def register_worker(
    worker: str, queues: Sequence[str], job_types: Mapping[str, Mapping[str, Any]]
) -> Rpc[Version]:
    params = omit_none(worker=worker, queues=list(queues), job_types=job_types)
    return Rpc("register_worker", params, Version.model_validate)


def unregister_worker(worker: str) -> Rpc[None]:
    return Rpc("unregister_worker", {"worker": worker}, parse_nothing)


@dataclass(frozen=True, slots=True)
class Claim:
    """A request for jobs.

    A repeated request with the same ``request_id`` returns the same jobs.

    If ``confirms_start`` is true, a claimed job counts as started only at its first heartbeat or
    report.
    """

    worker: str
    queues: tuple[str, ...]
    job_types: tuple[str, ...]
    max_jobs: int
    lease_seconds: float
    request_id: UUID
    weights: tuple[float, ...] | None = None
    confirms_start: bool = False


def claim_jobs(claim: Claim) -> Rpc[list[ClaimedJob]]:
    params = omit_none(
        worker=claim.worker,
        queues=list(claim.queues),
        job_types=list(claim.job_types),
        max_jobs=claim.max_jobs,
        lease_seconds=claim.lease_seconds,
        request_id=claim.request_id,
        weights=claim.weights,
        confirms_start=claim.confirms_start,
    )
    return Rpc("claim_jobs", params, lambda rows: [ClaimedJob(row) for row in rows])


def heartbeat_jobs(worker: str, leases: Mapping[str, str]) -> Rpc[HeartbeatAnswer]:
    """Return the call that extends leases; ``leases`` has one lease id for each job id.

    The field ``lost_leases`` of the answer is not read. It tells the leases of one job apart, and
    this call has only one lease of each job.
    """
    items = [{"job_id": job, "lease_id": lease} for job, lease in leases.items()]
    return Rpc(
        "heartbeat_jobs",
        {"worker": worker, "leases": items},
        lambda data: HeartbeatAnswer(
            frozenset(data["cancel"]), frozenset(data["lost"]), frozenset(data.get("busy", ()))
        ),
    )


def report_progress(
    job_id: UUID, lease_id: UUID, progress: int, message: str | None = None
) -> Rpc[bool]:
    """Return the call that writes progress; its result is True if the job is to be cancelled."""
    params = omit_none(job_id=job_id, lease_id=lease_id, progress=progress, message=message)
    return Rpc("report_progress", params, lambda data: bool(data["cancel_requested"]))


def log_job(job_id: UUID, lease_id: UUID, lines: Sequence[Mapping[str, Any]]) -> Rpc[None]:
    """Return the call that adds lines to the log of a job: dicts with level, message and at."""
    return Rpc("log_job", omit_none(job_id=job_id, lease_id=lease_id, lines=lines), parse_nothing)


def report_jobs(outcomes: Sequence[Mapping[str, Any]]) -> Rpc[dict[str, dict[str, Any]]]:
    """Return the call that reports outcomes; its result has one answer for each job id.

    The ``outcome`` of an answer is ok, repeated, stale, busy or refused. If it is refused,
    ``error`` has the reason.
    """
    # Not `omit_none`: the outcomes are plain JSON already, and converting hundreds of them again
    # would take longer than sending them.
    return Rpc(
        "report_jobs",
        {"outcomes": outcomes},
        lambda data: {item["job_id"]: item for item in data["outcomes"]},
    )
