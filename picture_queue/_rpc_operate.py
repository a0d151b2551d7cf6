"""The SQL functions for operators, from queues to settings; see `_rpc`."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import JsonValue, TypeAdapter

from picture_queue._ids import new_id
from picture_queue._rpc import Rpc, enqueued, given, new_jobs, required
from picture_queue.arguments import NewJob, encode_job
from picture_queue.records import (
    Changed,
    Enqueued,
    Record,
)
from picture_queue.records_operate import (
    Batch,
    DesiredWorkers,
    EnqueuedBatch,
    Finding,
    Limit,
    PausedKey,
    Queue,
    QueueCounts,
    Schedule,
    Setting,
    Tenant,
)

R = TypeVar("R", bound=Record)


def _listed(function: str, record: type[R], limit: int, after: str | None) -> Rpc[list[R]]:
    params = {"filter": given(limit=limit, after=after)}
    return Rpc(function, params, TypeAdapter(list[record]).validate_python)  # type: ignore[valid-type]


# Queues


def list_queues(limit: int, after: str | None) -> Rpc[list[Queue]]:
    return _listed("list_queues", Queue, limit, after)


def set_queue(queue: str, changes: Mapping[str, Any]) -> Rpc[Queue]:
    return Rpc("set_queue", required(queue=queue, changes=changes), Queue.model_validate)


def pause_queue(queue: str, resume_at: datetime | None, reason: str | None) -> Rpc[Queue]:
    params = given(queue=queue, resume_at=resume_at, reason=reason)
    return Rpc("pause_queue", params, Queue.model_validate)


def resume_queue(queue: str) -> Rpc[Queue]:
    return Rpc("resume_queue", required(queue=queue), Queue.model_validate)


def drain_queue(queue: str) -> Rpc[Queue]:
    return Rpc("drain_queue", required(queue=queue), Queue.model_validate)


def purge_queue(queue: str, preview: bool) -> Rpc[Changed]:
    params = required(queue=queue, preview=preview, request_id=new_id())
    return Rpc("purge_queue", params, Changed.model_validate)


def queue_counts(limit: int, after: str | None) -> Rpc[list[QueueCounts]]:
    return _listed("queue_counts", QueueCounts, limit, after)


def desired_workers(
    queue: str | None, jobs_per_worker: int, min_workers: int, max_workers: int
) -> Rpc[DesiredWorkers]:
    params = given(
        queue=queue,
        jobs_per_worker=jobs_per_worker,
        min_workers=min_workers,
        max_workers=max_workers,
    )
    return Rpc("desired_workers", params, DesiredWorkers.model_validate)


# Limits and tenants


def list_limits(limit: int, after: str | None) -> Rpc[list[Limit]]:
    return _listed("list_limits", Limit, limit, after)


def set_limit(
    key: str, max_running: int | None, rate: int | None, period_seconds: float | None
) -> Rpc[Limit]:
    params = given(key=key, max_running=max_running, rate=rate, period_seconds=period_seconds)
    return Rpc("set_limit", params, Limit.model_validate)


def delete_limit(key: str) -> Rpc[None]:
    return Rpc("delete_limit", required(key=key, request_id=new_id()), lambda _: None)


def pause_key(key: str, resume_at: datetime | None) -> Rpc[PausedKey]:
    return Rpc("pause_key", given(key=key, resume_at=resume_at), PausedKey.model_validate)


def resume_key(key: str) -> Rpc[PausedKey]:
    return Rpc("resume_key", required(key=key), PausedKey.model_validate)


def list_tenants(limit: int, after: str | None) -> Rpc[list[Tenant]]:
    return _listed("list_tenants", Tenant, limit, after)


def set_tenant(tenant: str, weight: float) -> Rpc[Tenant]:
    return Rpc("set_tenant", required(tenant=tenant, weight=weight), Tenant.model_validate)


# Schedules


def list_schedules(limit: int, after: str | None) -> Rpc[list[Schedule]]:
    return _listed("list_schedules", Schedule, limit, after)


def set_schedule(name: str, rhythm: Mapping[str, Any], job: Mapping[str, Any]) -> Rpc[Schedule]:
    params = required(name=name, schedule={**encode_job(job), **given(**rhythm)})
    return Rpc("set_schedule", params, Schedule.model_validate)


def delete_schedule(name: str) -> Rpc[bool]:
    """Return whether there was such a schedule."""
    params = required(name=name, request_id=new_id())
    return Rpc("delete_schedule", params, lambda data: bool(data["deleted"]))


def pause_schedule(name: str) -> Rpc[Schedule]:
    return Rpc("pause_schedule", required(name=name), Schedule.model_validate)


def resume_schedule(name: str) -> Rpc[Schedule]:
    return Rpc("resume_schedule", required(name=name), Schedule.model_validate)


def run_schedule(name: str) -> Rpc[Enqueued]:
    params = required(name=name, job_id=new_id())
    return Rpc("run_schedule", params, lambda data: enqueued([data], [params["job_id"]])[0])


# Batches and events


def enqueue_batch(
    jobs: Iterable[NewJob],
    callback: NewJob | None,
    batch_id: UUID | str | None,
    metadata: Mapping[str, JsonValue] | None,
) -> Rpc[EnqueuedBatch]:
    params, ids = new_jobs(jobs)
    params |= given(
        callback=encode_job(callback) if callback else None,
        batch_id=batch_id or new_id(),
        metadata=metadata,
    )
    return Rpc(
        "enqueue_batch",
        params,
        lambda data: EnqueuedBatch(id=data["batch_id"], jobs=tuple(enqueued(data["jobs"], ids))),
    )


def get_batch(batch_id: UUID | str) -> Rpc[Batch]:
    return Rpc("get_batch", required(batch_id=batch_id), Batch.model_validate)


def send_event(name: str, payload: JsonValue, event_id: UUID | str | None) -> Rpc[int]:
    """Return the number of jobs that woke."""
    params = required(name=name, payload=payload, event_id=event_id or new_id())
    return Rpc("send_event", params, lambda data: int(data["woken"]))


# The project


def get_settings() -> Rpc[Setting]:
    return Rpc("get_settings", {}, Setting.model_validate)


def set_setting(changes: Mapping[str, Any]) -> Rpc[Setting]:
    return Rpc("set_setting", required(changes=changes), Setting.model_validate)


def queue_doctor(client_time: datetime) -> Rpc[list[Finding]]:
    params = given(client_time=client_time)
    return Rpc("queue_doctor", params, TypeAdapter(list[Finding]).validate_python)
