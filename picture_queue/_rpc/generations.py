"""Calls about generations."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from pydantic import JsonValue

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, omit_none, row_parser
from picture_queue.records import CancelRequest, Generation, JobStatus, StartedGeneration

_parse_generations = row_parser(Generation)


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
) -> Rpc[StartedGeneration]:
    options = omit_none(
        # If there is an idempotency key, the database finds the row of the first call by this key.
        generation_id=None if idempotency_key else new_id(),
        kind=kind,
        user_id=user_id,
        scheduled_for=scheduled_for,
        idempotency_key=idempotency_key,
        priority=priority,
    )
    params = omit_none(prompt=prompt, model_id=model_id, input=input or {}, options=options)
    return Rpc(
        "start_generation",
        params,
        lambda data: StartedGeneration.model_validate({"id": data["generation_id"], **data}),
    )


def get_generation(generation_id: UUID | str) -> Rpc[Generation]:
    return Rpc("get_generation", keep_none(generation_id=generation_id), Generation.model_validate)


def list_generations(
    *,
    status: JobStatus | str | None = None,
    limit: int = 100,
    before: datetime | None = None,
) -> Rpc[list[Generation]]:
    filter_ = omit_none(status=status, limit=limit, before=before)
    return Rpc("list_generations", {"filter": filter_}, _parse_generations)


def cancel_generation(generation_id: UUID | str) -> Rpc[CancelRequest]:
    params = keep_none(generation_id=generation_id, request_id=new_id())
    return Rpc("cancel_generation", params, CancelRequest.model_validate)
