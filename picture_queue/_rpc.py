"""The SQL functions this library calls: their names, parameters and what comes back. No I/O.

Those for operators are in `_rpc_operate`.

A value of `Rpc` is a call that a transport can make, and make again after a lost answer: whatever
needs an id gets it here, so a repetition meets what the first call wrote.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from picture_queue._ids import new_id, new_ids
from picture_queue._json import plain
from picture_queue.arguments import JobFilter, encode_job, encode_jobs
from picture_queue.claimed_job import ClaimedJob
from picture_queue.records import (
    CancelRequest,
    Changed,
    Enqueued,
    FailureReason,
    Generation,
    Health,
    Job,
    JobExplanation,
    JobHistory,
    JobPosition,
    JobStatus,
    Maintenance,
    Model,
    StartedGeneration,
    Version,
)

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)

_log = logging.getLogger(__name__)

#: The contract this client is written for; see `picture_queue_version` in SQL.
CONTRACT = 2


class Rpc(NamedTuple, Generic[T]):
    """One call of a SQL function.

    Args:
        function: Name in the schema ``public``.
        params: Arguments by name, as JSON; a name left out takes the function's default.
        parse: Turns the JSON that came back into the result.
    """

    function: str
    params: dict[str, Any]
    parse: Callable[[Any], T]


def given(**params: Any) -> dict[str, Any]:
    """Return the arguments that are not None, as JSON; for the others the function's default holds.

    Raises:
        InvalidArgument: One of them is no JSON.
    """
    return {name: plain(value, name) for name, value in params.items() if value is not None}


def required(**params: Any) -> dict[str, Any]:
    """Return the arguments as JSON, None as null.

    Raises:
        InvalidArgument: One of them is no JSON.
    """
    return {name: plain(value, name) for name, value in params.items()}


def _nothing(_: Any) -> None:
    return None


def _rows(record: type[R]) -> Callable[[Any], list[R]]:
    """Return a parser of rows; one that does not fit is logged and left out."""
    rows = TypeAdapter(list[record])  # type: ignore[valid-type]

    def parse(data: Any) -> list[R]:
        try:
            return rows.validate_python(data)
        except ValidationError:
            if not isinstance(data, list):
                raise
        found = []
        for row in data:
            try:
                found.append(record.model_validate(row))
            except ValidationError as error:
                row_id = row.get("id") if isinstance(row, dict) else row
                _log.error(
                    "%s %s cannot be read and is left out: %s", record.__name__, row_id, error
                )
        return found

    return parse


_parse_jobs = _rows(Job)
_parse_generations = _rows(Generation)
_parse_models = _rows(Model)
_EXPLANATIONS = TypeAdapter(list[JobExplanation])
_ENQUEUED = TypeAdapter(list[Enqueued])
_REASONS = TypeAdapter(list[FailureReason])


def picture_queue_version() -> Rpc[Version]:
    return Rpc("picture_queue_version", {}, Version.model_validate)


def enqueue_job(job: Mapping[str, Any]) -> Rpc[Enqueued]:
    item = encode_job(job)
    if not item.keys() <= _PLAIN:
        rpc = enqueue_jobs([job])
        return Rpc(rpc.function, rpc.params, lambda data: rpc.parse(data)[0])
    # Under an id made just now nothing can be there but what the first try of this call wrote.
    params = plain({"job_id": new_id(), **item})
    return Rpc("enqueue_job", params, _created)


#: With nothing but these the outcome of an enqueue is known without being told.
_PLAIN = frozenset({"job_type", "payload", "queue", "priority", "user_id"})


def _created(job_id: Any) -> Enqueued:
    return Enqueued(id=job_id, outcome="created")


def enqueue_jobs(jobs: Iterable[Mapping[str, Any]]) -> Rpc[list[Enqueued]]:
    params, ids = new_jobs(jobs)
    return Rpc("enqueue_jobs", params, lambda data: enqueued(data, ids))


def new_jobs(jobs: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments for new jobs, and the ids that were made for those that have none.

    Where the caller made an id, only the database can tell a repetition of this call from a job
    that was there before: the call gets a request id, which costs it a row.
    """
    items = encode_jobs(jobs)
    ids = new_ids(len(items))
    request_id = new_id() if any("job_id" in item for item in items) else None
    made = [{"job_id": i, **item} for i, item in zip(ids, items, strict=True)]
    return {"jobs": plain(made, "jobs"), **given(request_id=request_id)}, ids


def enqueued(data: Any, ids: Sequence[str]) -> list[Enqueued]:
    """Return what became of each job.

    Args:
        data: The answer of the database.
        ids: The ids that were made for this call. Where such a job exists, it is because the answer
            to the call was lost and the call was repeated: the call created it.
    """
    for item, job_id in zip(data, ids, strict=False):
        if item["outcome"] == "existing" and item["job_id"] == job_id:
            item["outcome"] = "created"
    return _ENQUEUED.validate_python(data)


def get_job(job_id: UUID | str) -> Rpc[Job]:
    return Rpc("get_job", required(job_id=job_id), Job.model_validate)


def list_jobs(
    filter_: JobFilter, *, limit: int = 100, before_seq: int | None = None
) -> Rpc[list[Job]]:
    params = given(**filter_, limit=limit, before_seq=before_seq)
    return Rpc("list_jobs", {"filter": params}, _parse_jobs)


def change_jobs(action: str, filter_: JobFilter, *, preview: bool, limit: int) -> Rpc[Changed]:
    params = required(
        action=action, filter=given(**filter_, limit=limit), preview=preview, request_id=new_id()
    )
    return Rpc("change_jobs", params, Changed.model_validate)


def failure_reasons(filter_: JobFilter) -> Rpc[list[FailureReason]]:
    return Rpc("failure_reasons", {"filter": given(**filter_)}, _REASONS.validate_python)


def get_job_history(job_id: UUID | str) -> Rpc[JobHistory]:
    return Rpc("get_job_history", required(job_id=job_id), JobHistory.model_validate)


def job_position(job_id: UUID | str) -> Rpc[JobPosition]:
    return Rpc("job_position", required(job_id=job_id), JobPosition.model_validate)


def explain_jobs(job_ids: Iterable[UUID | str]) -> Rpc[list[JobExplanation]]:
    return Rpc("explain_jobs", required(job_ids=job_ids), _EXPLANATIONS.validate_python)


def cancel_job(job_id: UUID | str) -> Rpc[CancelRequest]:
    params = required(job_id=job_id, request_id=new_id())
    return Rpc("cancel_job", params, CancelRequest.model_validate)


def retry_job(job_id: UUID | str) -> Rpc[None]:
    return Rpc("retry_job", required(job_id=job_id, request_id=new_id()), _nothing)


def queue_status() -> Rpc[Health]:
    return Rpc("queue_status", {}, Health.model_validate)


# Generations


def start_generation(
    prompt: str,
    model_id: str | None = None,
    input: Mapping[str, JsonValue] | None = None,
    *,
    user_id: UUID | str | None = None,
    scheduled_for: datetime | None = None,
    idempotency_key: str | None = None,
    priority: int | None = None,
) -> Rpc[StartedGeneration]:
    options = given(
        # With an idempotency key the database finds the first call by it.
        generation_id=None if idempotency_key else new_id(),
        user_id=user_id,
        scheduled_for=scheduled_for,
        idempotency_key=idempotency_key,
        priority=priority,
    )
    params = given(prompt=prompt, model_id=model_id, input=input or {}, options=options)
    return Rpc(
        "start_generation",
        params,
        lambda data: StartedGeneration.model_validate({"id": data["generation_id"], **data}),
    )


def get_generation(generation_id: UUID | str) -> Rpc[Generation]:
    return Rpc("get_generation", required(generation_id=generation_id), Generation.model_validate)


def list_generations(
    *,
    status: JobStatus | str | None = None,
    limit: int = 100,
    before: datetime | None = None,
) -> Rpc[list[Generation]]:
    filter_ = given(status=status, limit=limit, before=before)
    return Rpc("list_generations", {"filter": filter_}, _parse_generations)


def cancel_generation(generation_id: UUID | str) -> Rpc[CancelRequest]:
    params = required(generation_id=generation_id, request_id=new_id())
    return Rpc("cancel_generation", params, CancelRequest.model_validate)


def list_models() -> Rpc[list[Model]]:
    return Rpc("list_models", {}, _parse_models)


# The worker


def register_worker(
    worker: str, queues: Sequence[str], job_types: Mapping[str, Mapping[str, Any]]
) -> Rpc[Version]:
    params = given(worker=worker, queues=list(queues), job_types=job_types)
    return Rpc("register_worker", params, Version.model_validate)


def unregister_worker(worker: str) -> Rpc[None]:
    return Rpc("unregister_worker", {"worker": worker}, _nothing)


@dataclass(frozen=True, slots=True)
class Claim:
    """A request for jobs; ``request_id`` makes it repeatable.

    ``confirms_start``: until a heartbeat or a report of a job, it counts as not started.
    """

    worker: str
    queues: tuple[str, ...]
    job_types: tuple[str, ...]
    max_jobs: int
    lease_seconds: float
    request_id: UUID
    weights: tuple[float, ...] | None = None
    confirms_start: bool = False

    def params(self) -> dict[str, Any]:
        return given(
            worker=self.worker,
            queues=list(self.queues),
            job_types=list(self.job_types),
            max_jobs=self.max_jobs,
            lease_seconds=self.lease_seconds,
            request_id=self.request_id,
            weights=self.weights,
            confirms_start=self.confirms_start,
        )


def claim_jobs(claim: Claim) -> Rpc[list[ClaimedJob]]:
    return Rpc("claim_jobs", claim.params(), _claimed)


def _claimed(data: list[dict[str, Any]]) -> list[ClaimedJob]:
    return [ClaimedJob(row) for row in data]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to a heartbeat: which jobs to cancel, and whose lease is lost; ids as text."""

    cancel: frozenset[str]
    lost: frozenset[str]


def heartbeat_jobs(worker: str, leases: Mapping[str, str]) -> Rpc[Heartbeat]:
    """Take the leases by job, both ids as text.

    A job is named under one lease, so the answer never has ``lost_leases``, which tells two leases
    of a job apart: ``lost`` says all.
    """
    items = [{"job_id": job, "lease_id": lease} for job, lease in leases.items()]
    return Rpc(
        "heartbeat_jobs",
        {"worker": worker, "leases": items},
        lambda data: Heartbeat(frozenset(data["cancel"]), frozenset(data["lost"])),
    )


def report_progress(
    job_id: UUID, lease_id: UUID, progress: int, message: str | None = None
) -> Rpc[bool]:
    """Return whether the job is to be cancelled."""
    params = given(job_id=job_id, lease_id=lease_id, progress=progress, message=message)
    return Rpc("report_progress", params, lambda data: bool(data["cancel_requested"]))


def log_job(job_id: UUID, lease_id: UUID, lines: Sequence[Mapping[str, Any]]) -> Rpc[None]:
    """Take lines of the form ``{"level", "message", "at"}``."""
    return Rpc("log_job", given(job_id=job_id, lease_id=lease_id, lines=lines), _nothing)


def maintain_jobs(*, force: bool = False, worker: str | None = None) -> Rpc[Maintenance]:
    """Do a round of maintenance, unless another worker holds the lease for it.

    With ``force`` the lease does not matter.
    """
    return Rpc("maintain_jobs", given(force=force, worker=worker), Maintenance.model_validate)


def report_jobs(outcomes: Sequence[Mapping[str, Any]]) -> Rpc[dict[str, dict[str, Any]]]:
    """The result has the answer to each outcome by the id of its job.

    Its ``outcome`` is ok, repeated, stale, busy, or refused, and then its ``error`` says why.
    """
    # Each is plain already: looking through hundreds again would take longer than to send them.
    return Rpc(
        "report_jobs",
        {"outcomes": outcomes},
        lambda data: {item["job_id"]: item for item in data["outcomes"]},
    )


# The worker's side of a generation


def begin_prediction(job_id: UUID, lease_id: UUID) -> Rpc[dict[str, Any]]:
    return Rpc("begin_prediction", required(job_id=job_id, lease_id=lease_id), dict)


def record_prediction(
    job_id: UUID, lease_id: UUID, prediction: UUID, prediction_id: str
) -> Rpc[None]:
    params = given(
        job_id=job_id, lease_id=lease_id, prediction=prediction, prediction_id=prediction_id
    )
    return Rpc("record_prediction", params, _nothing)


def finish_prediction(
    job_id: UUID,
    lease_id: UUID,
    prediction: UUID,
    state: str,
    error: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Rpc[None]:
    params = given(
        job_id=job_id,
        lease_id=lease_id,
        prediction=prediction,
        state=state,
        error=error,
        metrics=metrics,
    )
    return Rpc("finish_prediction", params, _nothing)


def save_images(job_id: UUID, lease_id: UUID, images: Sequence[Mapping[str, Any]]) -> Rpc[None]:
    params = given(job_id=job_id, lease_id=lease_id, images=list(images))
    return Rpc("save_images", params, _nothing)
