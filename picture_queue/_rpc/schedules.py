"""Calls about schedules."""

from collections.abc import Mapping
from typing import Any

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none, list_page, omit_none
from picture_queue._rpc.jobs import encode_job, parse_enqueued
from picture_queue.records import Enqueued, Schedule


def list_schedules(limit: int, after: str | None) -> Rpc[list[Schedule]]:
    return list_page("list_schedules", Schedule, limit, after)


def set_schedule(name: str, timing: Mapping[str, Any], job: Mapping[str, Any]) -> Rpc[Schedule]:
    params = keep_none(name=name, schedule={**encode_job(job), **omit_none(**timing)})
    return Rpc("set_schedule", params, Schedule.model_validate)


def delete_schedule(name: str) -> Rpc[bool]:
    """Return the call that deletes a schedule; its result is whether the schedule existed."""
    params = keep_none(name=name, request_id=new_id())
    return Rpc("delete_schedule", params, lambda data: bool(data["deleted"]))


def pause_schedule(name: str) -> Rpc[Schedule]:
    return Rpc("pause_schedule", keep_none(name=name), Schedule.model_validate)


def resume_schedule(name: str) -> Rpc[Schedule]:
    return Rpc("resume_schedule", keep_none(name=name), Schedule.model_validate)


def run_schedule(name: str) -> Rpc[Enqueued]:
    params = keep_none(name=name, job_id=new_id())
    return Rpc("run_schedule", params, lambda data: parse_enqueued([data], [params["job_id"]])[0])
