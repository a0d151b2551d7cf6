"""Calls about jobs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from picture_queue._ids import new_id, new_ids
from picture_queue._json import to_plain
from picture_queue._rpc.base import Rpc, keep_none, omit_none, parse_nothing, row_parser
from picture_queue.errors import InvalidArgument
from picture_queue.options import Backoff, JobFilter, Unique
from picture_queue.records import (
    CancelRequest,
    Changed,
    Enqueued,
    FailureReason,
    Job,
    JobExplanation,
    JobHistory,
    JobPosition,
)

_parse_jobs = row_parser(Job)
_EXPLANATIONS = TypeAdapter(list[JobExplanation])
_ENQUEUED = TypeAdapter(list[Enqueued])
_REASONS = TypeAdapter(list[FailureReason])
#: Fields of `NewJob` that enqueue_jobs expects under ``options``, each with its name in SQL.
_OPTIONS = {
    "delay": "delay_seconds",
    "timeout": "timeout_seconds",
    "expires_at": "expires_at",
    "expires_in": "expires_in_seconds",
    "backoff": "backoff",
    "tags": "tags",
    "metadata": "metadata",
    "tenant": "tenant",
    "limit_keys": "limit_keys",
    "depends_on": "depends_on",
    "on_parent_failure": "on_parent_failure",
    "batch_id": "batch_id",
    "unique": "unique",
}
#: Fields of `Backoff` and `Unique` that have another name in SQL.
_SQL_NAMES = {"base": "base_seconds", "cap": "cap_seconds", "period": "period_seconds"}
#: Fields that cannot make a job a duplicate of another one. The outcome of a job with only these
#: fields is always ``created``, so enqueue_job, which returns only an id, suffices.
_SIMPLE_FIELDS = frozenset({"job_type", "payload", "queue", "priority", "user_id"})


def enqueue_job(job: Mapping[str, Any]) -> Rpc[Enqueued]:
    if any(value is not None for name, value in job.items() if name not in _SIMPLE_FIELDS):
        rpc = enqueue_jobs([job])
        return Rpc(rpc.function, rpc.params, lambda data: rpc.parse(data)[0])
    # The id is new, so if a job has it already, an earlier attempt of this same call created it.
    params = {**omit_none(**job), "job_id": new_id()}
    return Rpc("enqueue_job", params, lambda job_id: Enqueued(id=job_id, outcome="created"))


def enqueue_jobs(jobs: Iterable[Mapping[str, Any]]) -> Rpc[list[Enqueued]]:
    params, ids = encode_new_jobs(jobs)
    return Rpc("enqueue_jobs", params, lambda data: parse_enqueued(data, ids))


def encode_new_jobs(jobs: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments for new jobs, and one generated id for each job.

    A job takes its generated id if the caller gave none. If the caller gave an id, and a job with
    that id exists, the client cannot tell whether an earlier attempt of this call created it. A
    call with such an id therefore gets a request id. The database stores its answer in a row under
    the request id, and a repeated call gets the stored answer.

    Raises:
        InvalidArgument: ``jobs`` is not a list of dicts; the error names the position and the
            value.
    """
    if isinstance(jobs, str | bytes | Mapping) or not isinstance(jobs, Iterable):
        raise _invalid_jobs(f"jobs is {jobs!r:.60}, not a list")
    items = []
    for i, job in enumerate(jobs):
        if not isinstance(job, Mapping):
            raise _invalid_jobs(f"jobs[{i}] is {job!r:.60}, not a dict")
        items.append(encode_job(job))
    ids = new_ids(len(items))
    request_id = new_id() if any("job_id" in item for item in items) else None
    for item, job_id in zip(items, ids, strict=True):
        item.setdefault("job_id", job_id)
    return {"jobs": to_plain(items, "jobs"), **omit_none(request_id=request_id)}, ids


def parse_enqueued(data: Any, ids: Sequence[str]) -> list[Enqueued]:
    """Parse the outcome of each enqueued job.

    Args:
        data: The answer of the database.
        ids: The ids that were generated for this call. If the database reports that a job with such
            an id exists, an earlier attempt of this call created it, so its outcome becomes
            ``created``.
    """
    for item, job_id in zip(data, ids, strict=False):
        if item["outcome"] == "existing" and item["job_id"] == job_id:
            item["outcome"] = "created"
    return _ENQUEUED.validate_python(data)


def encode_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `NewJob` as an item of enqueue_jobs, without the fields that are None.

    Unknown fields are kept, so that the database refuses them by name.
    """
    item = {name: value for name, value in job.items() if value is not None}
    if not _OPTIONS.keys().isdisjoint(item):
        options = {
            _OPTIONS[name]: _encode_option(item.pop(name))
            for name in list(item)
            if name in _OPTIONS
        }
        item["options"] = {**item.get("options", {}), **options}
    return item


def _invalid_jobs(detail: str) -> InvalidArgument:
    return InvalidArgument(
        "An argument is invalid",
        detail=detail,
        hint='Pass a list of dicts, such as [{"job_type": "resize", "payload": {"path": "a.png"}}]',
    )


def _encode_option(value: Any) -> Any:
    if isinstance(value, Backoff | Unique):
        return {
            _SQL_NAMES.get(name, name): field
            for name in value.__slots__
            if (field := getattr(value, name)) is not None
        }
    return value


def get_job(job_id: UUID | str) -> Rpc[Job]:
    return Rpc("get_job", keep_none(job_id=job_id), Job.model_validate)


def list_jobs(
    filter_: JobFilter, *, limit: int = 100, before_seq: int | None = None
) -> Rpc[list[Job]]:
    params = omit_none(**filter_, limit=limit, before_seq=before_seq)
    return Rpc("list_jobs", {"filter": params}, _parse_jobs)


def change_jobs(action: str, filter_: JobFilter, *, preview: bool, limit: int) -> Rpc[Changed]:
    params = keep_none(
        action=action,
        filter=omit_none(**filter_, limit=limit),
        preview=preview,
        request_id=new_id(),
    )
    return Rpc("change_jobs", params, Changed.model_validate)


def failure_reasons(filter_: JobFilter) -> Rpc[list[FailureReason]]:
    return Rpc("failure_reasons", {"filter": omit_none(**filter_)}, _REASONS.validate_python)


def get_job_history(job_id: UUID | str) -> Rpc[JobHistory]:
    return Rpc("get_job_history", keep_none(job_id=job_id), JobHistory.model_validate)


def job_position(job_id: UUID | str) -> Rpc[JobPosition]:
    return Rpc("job_position", keep_none(job_id=job_id), JobPosition.model_validate)


def explain_jobs(job_ids: Iterable[UUID | str]) -> Rpc[list[JobExplanation]]:
    return Rpc("explain_jobs", keep_none(job_ids=job_ids), _EXPLANATIONS.validate_python)


def cancel_job(job_id: UUID | str) -> Rpc[CancelRequest]:
    params = keep_none(job_id=job_id, request_id=new_id())
    return Rpc("cancel_job", params, CancelRequest.model_validate)


def retry_job(job_id: UUID | str) -> Rpc[None]:
    return Rpc("retry_job", keep_none(job_id=job_id, request_id=new_id()), parse_nothing)
