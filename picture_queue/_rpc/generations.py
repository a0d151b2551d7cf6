"""Calls about generations."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, omit_none, parse_nothing, row_parser
from picture_queue.options import GenerationRequest, GenerationStep
from picture_queue.records import (
    BatchCancelRequest,
    CancelRequest,
    DeletedGeneration,
    Generation,
    GenerationBatch,
    JobStatus,
    ModelKind,
    StartedBatch,
    StartedGeneration,
)

_parse_generations = row_parser(Generation)
_parse_deleted = row_parser(DeletedGeneration)


def start_generation(
    prompt: str,
    model_id: str | None = None,
    input: Mapping[str, JsonValue] | None = None,
    *,
    kind: str | None = None,
    user_id: UUID | str | None = None,
    scheduled_for: datetime | None = None,
    idempotency_key: str | None = None,
    priority: int | None = None,
    reuse: bool = False,
    then: Sequence[GenerationStep] = (),
) -> Rpc[StartedGeneration]:
    options = omit_none(
        # The id makes a retry of this call idempotent, unless an idempotency key does.
        generation_id=None if idempotency_key else new_id(),
        kind=kind,
        user_id=user_id,
        scheduled_for=scheduled_for,
        idempotency_key=idempotency_key,
        priority=priority,
        reuse=reuse or None,
        then=list(then) or None,
    )
    params = omit_none(prompt=prompt, model_id=model_id, input=input or {}, options=options)
    return Rpc(
        "start_generation", params, lambda data: StartedGeneration.model_validate(_with_ids(data))
    )


def start_generation_from_json(
    prompt: str,
    model_id: str | None,
    input: Mapping[str, JsonValue] | None,
    options: Mapping[str, JsonValue] | None,
) -> Rpc[dict[str, Any]]:
    """Start a generation with the fields of a JSON object, which only the database checks.

    The answer is the JSON of the database.
    """
    options = dict(options or {})
    if not options.get("idempotency_key"):
        options.setdefault("generation_id", str(new_id()))
    params = omit_none(prompt=prompt, model_id=model_id, input=input or {}, options=options)
    return Rpc("start_generation", params, dict)


def start_generations(
    requests: Iterable[GenerationRequest],
    *,
    batch_id: UUID | str | None = None,
    user_id: UUID | str | None = None,
    scheduled_for: datetime | None = None,
    priority: int | None = None,
) -> Rpc[StartedBatch]:
    options = omit_none(
        batch_id=batch_id or new_id(),
        user_id=user_id,
        scheduled_for=scheduled_for,
        priority=priority,
    )
    params = omit_none(requests=list(requests), options=options)
    return Rpc(
        "start_generations", params, lambda data: StartedBatch.model_validate(_with_ids(data))
    )


def generation_batch(batch_id: UUID | str) -> Rpc[GenerationBatch]:
    return Rpc(
        "generation_batch",
        keep_none(batch_id=batch_id),
        lambda data: GenerationBatch.model_validate(_with_ids(data)),
    )


def cancel_generation_batch(batch_id: UUID | str) -> Rpc[BatchCancelRequest]:
    return Rpc(
        "cancel_generation_batch",
        keep_none(batch_id=batch_id),
        lambda data: BatchCancelRequest.model_validate(_with_ids(data)),
    )


def _with_ids(data: dict[str, Any]) -> dict[str, Any]:
    """Add ``id`` to a generation or batch of an answer, and to those that it contains."""
    lists: dict[str, Any] = {
        name: [_with_ids(item) for item in data[name]]
        for name in ("generations", "steps")
        if name in data
    }
    return {"id": data.get("generation_id") or data["batch_id"], **data, **lists}


def get_generation(generation_id: UUID | str) -> Rpc[Generation]:
    return Rpc("get_generation", keep_none(generation_id=generation_id), Generation.model_validate)


def list_generations(
    *,
    status: JobStatus | str | None = None,
    model_id: str | None = None,
    kind: ModelKind | str | None = None,
    favourite: bool | None = None,
    search: str | None = None,
    user_id: UUID | str | None = None,
    limit: int = 100,
    before: datetime | Generation | None = None,
) -> Rpc[list[Generation]]:
    last = before if isinstance(before, Generation) else None
    filter_ = omit_none(
        status=status,
        model_id=model_id,
        kind=kind,
        favourite=favourite,
        search=search,
        user_id=user_id,
        limit=limit,
        before=last.created_at if last else before,
        before_id=last.id if last else None,
    )
    return Rpc("list_generations", {"filter": filter_}, _parse_generations)


def cancel_generation(generation_id: UUID | str) -> Rpc[CancelRequest]:
    params = keep_none(generation_id=generation_id, request_id=new_id())
    return Rpc("cancel_generation", params, CancelRequest.model_validate)


def set_favourite(generation_id: UUID | str, favourite: bool) -> Rpc[Generation]:
    params = keep_none(generation_id=generation_id, favourite=favourite)
    return Rpc("set_favourite", params, Generation.model_validate)


def delete_generation(generation_id: UUID | str) -> Rpc[None]:
    params = keep_none(generation_id=generation_id, request_id=new_id())
    return Rpc("delete_generation", params, parse_nothing)


def list_deleted_generations(ids: Sequence[UUID]) -> Rpc[list[DeletedGeneration]]:
    return Rpc("list_deleted_generations", keep_none(generation_ids=list(ids)), _parse_deleted)


def record_deleted_files(ids: Sequence[UUID]) -> Rpc[None]:
    return Rpc("record_deleted_files", keep_none(generation_ids=list(ids)), parse_nothing)
