"""Calls about a project: its version, health, checks and maintenance."""

from datetime import datetime

from pydantic import TypeAdapter

from picture_queue._rpc.base import Rpc, omit_none
from picture_queue.records import Finding, Health, Maintenance, Version

_FINDINGS = TypeAdapter(list[Finding])
#: Version of the SQL interface that this client needs; see the SQL function picture_queue_version.
CONTRACT = 6


def picture_queue_version() -> Rpc[Version]:
    return Rpc("picture_queue_version", {}, Version.model_validate)


def queue_status() -> Rpc[Health]:
    return Rpc("queue_status", {}, Health.model_validate)


def queue_doctor(client_time: datetime) -> Rpc[list[Finding]]:
    params = omit_none(client_time=client_time)
    return Rpc("queue_doctor", params, _FINDINGS.validate_python)


def maintain_jobs(*, force: bool = False, worker: str | None = None) -> Rpc[Maintenance]:
    """Return the call that runs a round of maintenance.

    The call does nothing if another worker holds the maintenance lease, unless ``force`` is true.
    """
    return Rpc("maintain_jobs", omit_none(force=force, worker=worker), Maintenance.model_validate)
