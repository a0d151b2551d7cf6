"""The client method for each function; async and sync clients have the same methods.

A method cannot make every call that SQL permits: it always passes the required arguments, and it
creates some ids itself. Such cases are called through the client's transport.
"""

from collections.abc import Callable, Mapping
from typing import Any

from picture_queue import Unique

Json = Any
#: Takes a client and the arguments of the call.
Method = Callable[[Any, dict[str, Json]], Any]


def _to_new_job(item: Mapping[str, Json]) -> dict[str, Json]:
    """Convert a job in the form of SQL into the fields of the client's `NewJob`."""
    fields = {name: value for name, value in item.items() if name != "options"}
    fields |= item.get("options") or {}
    if "unique" in fields:
        fields["unique"] = Unique(**fields["unique"])
    return fields


def _set_schedule(pq: Any, args: dict[str, Json]) -> Any:
    schedule = _to_new_job(args["schedule"])
    if "every_seconds" in schedule:
        schedule["every"] = schedule.pop("every_seconds")
    return pq.schedules.set(args["name"], **schedule)


def _start_generation(pq: Any, args: dict[str, Json]) -> Any:
    args = dict(args)
    return pq.generations.start(**(args.pop("options", None) or {}), **args)


METHODS: dict[str, Method] = {
    "enqueue_job": lambda pq, args: pq.jobs.enqueue(**_to_new_job(args)),
    "enqueue_jobs": lambda pq, args: pq.jobs.enqueue_many(
        [_to_new_job(item) for item in args["jobs"]]
    ),
    "enqueue_batch": lambda pq, args: pq.batches.enqueue(
        [_to_new_job(item) for item in args.pop("jobs")], **args
    ),
    "get_batch": lambda pq, args: pq.batches.get(**args),
    "send_event": lambda pq, args: pq.events.send(**args),
    "get_job": lambda pq, args: pq.jobs.get(**args),
    "list_jobs": lambda pq, args: pq.jobs.list(**args["filter"]),
    "job_position": lambda pq, args: pq.jobs.position(**args),
    "explain_jobs": lambda pq, args: pq.jobs.explain(args["job_ids"]),
    "cancel_job": lambda pq, args: pq.jobs.cancel(**args),
    "retry_job": lambda pq, args: pq.jobs.retry(**args),
    "get_job_history": lambda pq, args: pq.jobs.history(**args),
    "change_jobs": lambda pq, args: pq.jobs.change(
        args["action"], preview=args["preview"], **args["filter"]
    ),
    "failure_reasons": lambda pq, args: pq.jobs.failure_reasons(**args["filter"]),
    "list_queues": lambda pq, args: pq.queues.list(**args["filter"]),
    "set_queue": lambda pq, args: pq.queues.set(args["queue"], **args["changes"]),
    "pause_queue": lambda pq, args: pq.queues.pause(**args),
    "resume_queue": lambda pq, args: pq.queues.resume(**args),
    "drain_queue": lambda pq, args: pq.queues.drain(**args),
    "purge_queue": lambda pq, args: pq.queues.purge(**args),
    "queue_counts": lambda pq, args: pq.queues.counts(**args["filter"]),
    "desired_workers": lambda pq, args: pq.queues.desired_workers(**args),
    "queue_status": lambda pq, args: pq.health(),
    "set_limit": lambda pq, args: pq.limits.set(period=args.pop("period_seconds"), **args),
    "delete_limit": lambda pq, args: pq.limits.delete(**args),
    "list_limits": lambda pq, args: pq.limits.list(**args["filter"]),
    "pause_key": lambda pq, args: pq.limits.pause(**args),
    "resume_key": lambda pq, args: pq.limits.resume(**args),
    "set_tenant": lambda pq, args: pq.tenants.set(**args),
    "list_tenants": lambda pq, args: pq.tenants.list(**args["filter"]),
    "set_budget": lambda pq, args: pq.budgets.set(args["key"], **args["changes"]),
    "delete_budget": lambda pq, args: pq.budgets.delete(**args),
    "list_budgets": lambda pq, args: pq.budgets.list(**args["filter"]),
    "set_account": lambda pq, args: pq.accounts.set(**args),
    "grant_credits": lambda pq, args: pq.accounts.grant(**args),
    "get_account": lambda pq, args: pq.accounts.get(**args),
    "list_accounts": lambda pq, args: pq.accounts.list(**args["filter"]),
    "list_ledger": lambda pq, args: pq.accounts.ledger(**args["filter"]),
    "set_schedule": _set_schedule,
    "list_schedules": lambda pq, args: pq.schedules.list(**args["filter"]),
    "pause_schedule": lambda pq, args: pq.schedules.pause(**args),
    "resume_schedule": lambda pq, args: pq.schedules.resume(**args),
    "run_schedule": lambda pq, args: pq.schedules.run(args["name"]),
    "delete_schedule": lambda pq, args: pq.schedules.delete(**args),
    "get_settings": lambda pq, args: pq.settings.get(),
    "set_setting": lambda pq, args: pq.settings.set(**args["changes"]),
    "maintain_jobs": lambda pq, args: pq.maintain(force=args["force"]),
    "queue_doctor": lambda pq, args: pq.doctor(),
    "picture_queue_version": lambda pq, args: pq.version(),
    "start_generation": _start_generation,
    "start_generations": lambda pq, args: pq.generations.start_many(
        args["requests"], **(args.get("options") or {})
    ),
    "generation_batch": lambda pq, args: pq.generations.get_batch(**args),
    "cancel_generation_batch": lambda pq, args: pq.generations.cancel_batch(**args),
    "get_generation": lambda pq, args: pq.generations.get(**args),
    "list_generations": lambda pq, args: pq.generations.list(**args["filter"]),
    "cancel_generation": lambda pq, args: pq.generations.cancel(**args),
    "set_favourite": lambda pq, args: pq.generations.set_favourite(**args),
    "delete_generation": lambda pq, args: pq.generations.delete(**args),
    "list_models": lambda pq, args: pq.models.list(**args.get("filter", {})),
    "set_model": lambda pq, args: pq.models.set(args["model_id"], **args["changes"]),
    "set_input_rule": lambda pq, args: pq.rules.set(**args),
    "delete_input_rule": lambda pq, args: pq.rules.delete(**args),
    "list_input_rules": lambda pq, args: pq.rules.list(),
}
#: Cases with an argument that the method does not accept: an id that the method creates itself, or
#: an unknown filter.
_NO_METHOD_CASES = (
    "start_generation/right",
    "start_generation/repeated",
    "start_generation/unauthorised",
    "run_schedule/right",
    "run_schedule/repeated",
    "PQ_INVALID_ARGUMENT/list_generations",
)


def find_method(case: str, function: str) -> Method | None:
    """Return the client method that can make the call of a case, or None if no method can."""
    kind = case.split("/")[1]
    if kind in ("absent", "null", "wrong") or case.startswith(_NO_METHOD_CASES):
        return None
    return METHODS.get(function)
