"""Calls of SQL functions as values: name, parameters, and a parser of the result. No I/O."""

from picture_queue._rpc.accounts import (
    get_account,
    grant_credits,
    list_accounts,
    list_ledger,
    set_account,
)
from picture_queue._rpc.base import Rpc
from picture_queue._rpc.batches import enqueue_batch, get_batch
from picture_queue._rpc.budgets import delete_budget, list_budgets, set_budget
from picture_queue._rpc.events import send_event
from picture_queue._rpc.generations import (
    cancel_generation,
    get_generation,
    list_generations,
    start_generation,
)
from picture_queue._rpc.jobs import (
    cancel_job,
    change_jobs,
    enqueue_job,
    enqueue_jobs,
    explain_jobs,
    failure_reasons,
    get_job,
    get_job_history,
    job_position,
    list_jobs,
    retry_job,
)
from picture_queue._rpc.limits import delete_limit, list_limits, pause_key, resume_key, set_limit
from picture_queue._rpc.models import list_models
from picture_queue._rpc.predictions import (
    begin_prediction,
    finish_prediction,
    record_prediction,
    save_images,
)
from picture_queue._rpc.project import (
    CONTRACT,
    maintain_jobs,
    picture_queue_version,
    queue_doctor,
    queue_status,
)
from picture_queue._rpc.queues import (
    desired_workers,
    drain_queue,
    list_queues,
    pause_queue,
    purge_queue,
    queue_counts,
    resume_queue,
    set_queue,
)
from picture_queue._rpc.schedules import (
    delete_schedule,
    list_schedules,
    pause_schedule,
    resume_schedule,
    run_schedule,
    set_schedule,
)
from picture_queue._rpc.settings import get_settings, set_setting
from picture_queue._rpc.tenants import list_tenants, set_tenant
from picture_queue._rpc.workers import (
    Claim,
    claim_jobs,
    heartbeat_jobs,
    log_job,
    register_worker,
    report_jobs,
    report_progress,
    unregister_worker,
)

__all__ = [
    "CONTRACT",
    "Claim",
    "Rpc",
    "begin_prediction",
    "cancel_generation",
    "cancel_job",
    "change_jobs",
    "claim_jobs",
    "delete_budget",
    "delete_limit",
    "delete_schedule",
    "desired_workers",
    "drain_queue",
    "enqueue_batch",
    "enqueue_job",
    "enqueue_jobs",
    "explain_jobs",
    "failure_reasons",
    "finish_prediction",
    "get_account",
    "get_batch",
    "get_generation",
    "get_job",
    "get_job_history",
    "get_settings",
    "grant_credits",
    "heartbeat_jobs",
    "job_position",
    "list_accounts",
    "list_budgets",
    "list_generations",
    "list_jobs",
    "list_ledger",
    "list_limits",
    "list_models",
    "list_queues",
    "list_schedules",
    "list_tenants",
    "log_job",
    "maintain_jobs",
    "pause_key",
    "pause_queue",
    "pause_schedule",
    "picture_queue_version",
    "purge_queue",
    "queue_counts",
    "queue_doctor",
    "queue_status",
    "record_prediction",
    "register_worker",
    "report_jobs",
    "report_progress",
    "resume_key",
    "resume_queue",
    "resume_schedule",
    "retry_job",
    "run_schedule",
    "save_images",
    "send_event",
    "set_account",
    "set_budget",
    "set_limit",
    "set_queue",
    "set_schedule",
    "set_setting",
    "set_tenant",
    "start_generation",
    "unregister_worker",
]
