"""Calls about batches."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from pydantic import JsonValue

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, omit_none
from picture_queue._rpc.jobs import encode_job, encode_new_jobs, parse_enqueued
from picture_queue.options import NewJob
from picture_queue.records import Batch, EnqueuedBatch


def enqueue_batch(
    jobs: Iterable[NewJob],
    callback: NewJob | None,
    batch_id: UUID | str | None,
    metadata: Mapping[str, JsonValue] | None,
) -> Rpc[EnqueuedBatch]:
    params, ids = encode_new_jobs(jobs)
    params |= omit_none(
        callback=encode_job(callback) if callback is not None else None,
        batch_id=batch_id or new_id(),
        metadata=metadata,
    )
    return Rpc(
        "enqueue_batch",
        params,
        lambda data: EnqueuedBatch(
            id=data["batch_id"], jobs=tuple(parse_enqueued(data["jobs"], ids))
        ),
    )


def get_batch(batch_id: UUID | str) -> Rpc[Batch]:
    return Rpc("get_batch", keep_none(batch_id=batch_id), Batch.model_validate)
