"""Calls about queues."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, list_page, omit_none
from picture_queue.records import Changed, DesiredWorkers, Queue, QueueCounts


def list_queues(limit: int, after: str | None) -> Rpc[list[Queue]]:
    return list_page("list_queues", Queue, limit, after)


def set_queue(queue: str, changes: Mapping[str, Any]) -> Rpc[Queue]:
    return Rpc("set_queue", keep_none(queue=queue, changes=changes), Queue.model_validate)


def pause_queue(queue: str, resume_at: datetime | None, reason: str | None) -> Rpc[Queue]:
    params = omit_none(queue=queue, resume_at=resume_at, reason=reason)
    return Rpc("pause_queue", params, Queue.model_validate)


def resume_queue(queue: str) -> Rpc[Queue]:
    return Rpc("resume_queue", keep_none(queue=queue), Queue.model_validate)


def drain_queue(queue: str) -> Rpc[Queue]:
    return Rpc("drain_queue", keep_none(queue=queue), Queue.model_validate)


def purge_queue(queue: str, preview: bool) -> Rpc[Changed]:
    params = keep_none(queue=queue, preview=preview, request_id=new_id())
    return Rpc("purge_queue", params, Changed.model_validate)


def queue_counts(limit: int, after: str | None) -> Rpc[list[QueueCounts]]:
    return list_page("queue_counts", QueueCounts, limit, after)


def desired_workers(
    queue: str | None, jobs_per_worker: int, min_workers: int, max_workers: int
) -> Rpc[DesiredWorkers]:
    params = omit_none(
        queue=queue,
        jobs_per_worker=jobs_per_worker,
        min_workers=min_workers,
        max_workers=max_workers,
    )
    return Rpc("desired_workers", params, DesiredWorkers.model_validate)
