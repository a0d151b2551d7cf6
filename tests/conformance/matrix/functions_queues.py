"""Cases of the functions for queues, limits, tenants, schedules and the project."""

from picture_queue import _rpc
from tests.conformance.matrix.case import (
    INVALID,
    Function,
    Json,
    PlaceholderValues,
    field_types,
    our_error,
    remove_fields,
    select_fields,
    select_items,
)
from tests.conformance.matrix.setups import JOB_TYPE

#: An object as the value of a text parameter; it is passed as JSON text.
_OBJECT = {"a": 1}
_NO_QUEUE = our_error("PQ_UNKNOWN_QUEUE")
_NO_BUDGET = our_error("PQ_UNKNOWN_BUDGET")
_NO_SCHEDULE = our_error("PQ_UNKNOWN_SCHEDULE")
_LATER = "2099-01-01T00:00:00+00:00"
_VERSION = {"version": ..., "contract": _rpc.CONTRACT, "oldest_client_contract": 1}


def _ledger_of_account(answer: Json, placeholders: PlaceholderValues) -> Json:
    """Select the ledger rows of the user, without the ids of these rows."""
    rows = select_items("user_id", "$account")(answer, placeholders)
    return select_fields("user_id", "phase", "amount_usd", "generation_id", "note")(
        rows, placeholders
    )


def _queue_function(name: str, right: object, setup: str, repeated: object = ...) -> Function:
    """Return a function whose only parameter is the name of a queue."""
    return Function(
        name,
        "service",
        "queue text",
        args={"queue": "$queue"},
        setup=setup,
        right=right,
        repeated=repeated,
        null={"queue": _NO_QUEUE},
        wrong={"queue": (_OBJECT, _NO_QUEUE)},
    )


def _schedule_function(name: str, right: object) -> Function:
    """Return a function whose only parameter is the name of a schedule."""
    return Function(
        name,
        "service",
        "name text",
        args={"name": "$name"},
        setup="schedule",
        right=right,
        null={"name": _NO_SCHEDULE},
        wrong={"name": (_OBJECT, _NO_SCHEDULE)},
    )


QUEUES = [
    Function(
        "list_queues",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"limit": 10000}},
        wrong={"filter": ([1], INVALID)},
        setup="pending",
        right=[{"name": "$queue", "paused": False, "jobs": {"pending": 1}}],
        view=select_items("name", "$queue"),
    ),
    Function(
        "set_queue",
        "service",
        "queue text, changes jsonb=",
        args={"queue": "$queue", "changes": {"max_attempts": 7}},
        right={"name": "$queue", "max_attempts": 7},
        absent={"changes": {"name": "$queue", "max_attempts": None}},
        null={"queue": INVALID},
        wrong={"queue": (_OBJECT, INVALID), "changes": ([1], INVALID)},
    ),
    Function(
        "pause_queue",
        "service",
        "queue text, resume_at timestamp with time zone=, reason text=",
        args={"queue": "$queue", "resume_at": _LATER, "reason": "works"},
        setup="queue",
        right={"name": "$queue", "paused": True, "pause_reason": "works", "resume_at": "<time>"},
        absent={
            "resume_at": {"paused": True, "resume_at": None},
            "reason": {"paused": True, "pause_reason": None},
        },
        null={"queue": _NO_QUEUE},
        wrong={"queue": (_OBJECT, _NO_QUEUE), "reason": (7, {"pause_reason": "7"})},
    ),
    _queue_function("resume_queue", {"draining": False, "paused": False}, "draining queue"),
    _queue_function("drain_queue", {"draining": True}, "queue"),
    Function(
        "purge_queue",
        "service",
        "queue text, preview boolean=, request_id uuid=",
        args={"queue": "$queue", "preview": False},
        setup="pending",
        right={"matched": 1, "changed": 1, "more": False},
        repeated={"matched": 0, "changed": 0, "more": False},
        null={"queue": _NO_QUEUE},
        wrong={"queue": (_OBJECT, _NO_QUEUE)},
    ),
    Function(
        "queue_counts",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"limit": 10000}},
        wrong={"filter": ([1], INVALID)},
        setup="completed",
        right=[{"queue": "$queue", "completed": 1, "pending": 0, "finished_last_minute": 1}],
        view=select_items("queue", "$queue"),
    ),
    Function(
        "desired_workers",
        "service",
        "queue text=, jobs_per_worker integer=, min_workers integer=, max_workers integer=",
        read_only=True,
        args={"queue": "$queue", "jobs_per_worker": 1, "min_workers": 0, "max_workers": 3},
        setup="pending",
        right={"desired": 1, "running": 0, "ready": 1},
        # Without a queue, the answer counts the jobs of all queues.
        absent={"queue": ...},
        wrong={"queue": (_OBJECT, _NO_QUEUE)},
    ),
    Function(
        "queue_status",
        "service",
        "",
        read_only=True,
        setup="worker",
        right={
            "queues": "list",
            "workers": "list",
            "job_types_without_worker": "list",
            "stuck": "int",
        },
        view=field_types,
    ),
    Function(
        "set_limit",
        "service",
        "key text, max_running integer=, rate integer=, period_seconds real=",
        args={"key": "$key", "max_running": 5, "rate": 10, "period_seconds": 60},
        right={"key": "$key", "max_running": 5, "rate": 10, "period_seconds": 60, "running": 0},
        absent={"max_running": {"max_running": None}, "rate": INVALID, "period_seconds": INVALID},
        null={"key": INVALID},
        wrong={"key": ({"a": "$key"}, {"key": '{"a":"$key"}', "rate": 10})},
    ),
    Function(
        "delete_limit",
        "service",
        "key text, request_id uuid=",
        args={"key": "$key"},
        setup="limit",
        right=None,
        repeated=our_error("PQ_UNKNOWN_LIMIT"),
        null={"key": our_error("PQ_UNKNOWN_LIMIT")},
        wrong={"key": (["a"], our_error("PQ_UNKNOWN_LIMIT"))},
    ),
    Function(
        "list_limits",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"limit": 10000}},
        wrong={"filter": ([1], INVALID)},
        setup="limit",
        right=[{"key": "$key", "max_running": 5, "paused": False, "running": 0, "waiting": 0}],
        view=select_items("key", "$key"),
    ),
    Function(
        "pause_key",
        "service",
        "key text, resume_at timestamp with time zone=",
        args={"key": "$key", "resume_at": _LATER},
        right={"key": "$key", "paused": True, "resume_at": "<time>"},
        absent={"resume_at": {"key": "$key", "paused": True, "resume_at": None}},
        null={"key": INVALID},
        wrong={"key": ({"a": "$key"}, {"key": '{"a":"$key"}', "paused": True})},
    ),
    Function(
        "resume_key",
        "service",
        "key text",
        args={"key": "$key"},
        setup="paused key",
        right={"key": "$key", "paused": False, "resume_at": None},
        null={"key": INVALID},
        wrong={"key": ({"a": "$key"}, {"key": '{"a":"$key"}', "paused": False})},
    ),
    Function(
        "set_budget",
        "service",
        "key text, changes jsonb=",
        args={"key": "plan:$plan", "changes": {"usd_per_day": 2.5}},
        right={"key": "plan:$plan", "usd_per_day": 2.5, "per_minute": None},
        absent={"changes": {"key": "plan:$plan", "usd_per_day": None}},
        null={"key": INVALID},
        wrong={"key": (_OBJECT, INVALID), "changes": ([1], INVALID)},
    ),
    Function(
        "delete_budget",
        "service",
        "key text, request_id uuid=",
        args={"key": "plan:$plan"},
        setup="budget",
        right=None,
        repeated=_NO_BUDGET,
        null={"key": _NO_BUDGET},
        wrong={"key": (["a"], _NO_BUDGET)},
    ),
    Function(
        "list_budgets",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"limit": 10000}},
        wrong={"filter": ([1], INVALID)},
        setup="budget",
        right=[{"key": "plan:$plan", "usd_per_day": 1, "max_pending": None}],
        view=select_items("key", "plan:$plan"),
    ),
    Function(
        "set_account",
        "service",
        "user_id uuid, plan text=",
        args={"user_id": "$account", "plan": "free"},
        right={"user_id": "$account", "plan": "free", "credits_usd": 0, "pending": 0},
        absent={"plan": {"user_id": "$account", "plan": None}},
        null={"user_id": INVALID},
        wrong={"plan": (_OBJECT, INVALID)},
    ),
    Function(
        "grant_credits",
        "service",
        "user_id uuid, usd numeric, idempotency_key text=, note text=",
        args={"user_id": "$account", "usd": 2.5, "idempotency_key": "$text", "note": "paid"},
        right={"user_id": "$account", "credits_usd": 2.5},
        null={"user_id": INVALID, "usd": INVALID},
        wrong={
            "idempotency_key": ({"a": "$text"}, {"credits_usd": 2.5}),
            "note": (7, {"credits_usd": 2.5}),
        },
    ),
    Function(
        "get_account",
        "user",
        "user_id uuid=",
        read_only=True,
        args={"user_id": "$ada"},
        right={"user_id": "$ada", "plan": None, "credits_usd": 0, "budget": ...},
        # Cases that ran earlier change these fields of the user.
        view=remove_fields("pending", "spent_today_usd", "spent_this_month_usd"),
        foreign=our_error("PQ_NOT_ALLOWED"),
        absent={"user_id": INVALID},
    ),
    Function(
        "list_accounts",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"limit": 10000}},
        wrong={"filter": ([1], INVALID)},
        setup="credits",
        right=[{"user_id": "$account", "credits_usd": 5, "plan": None}],
        view=select_items("user_id", "$account"),
    ),
    Function(
        "list_ledger",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"user_id": "$account"}},
        wrong={"filter": ([1], INVALID)},
        setup="credits",
        right=[{"user_id": "$account", "phase": "grant", "amount_usd": 5, "generation_id": None}],
        # The first page of the whole ledger has the newest rows, which other cases have written.
        absent={"filter": ...},
        null={"filter": ...},
        view=_ledger_of_account,
    ),
    Function(
        "set_tenant",
        "service",
        "tenant text, weight real",
        args={"tenant": "$tenant", "weight": 2.5},
        right={"tenant": "$tenant", "weight": 2.5},
        null={"tenant": INVALID, "weight": INVALID},
        wrong={"tenant": ({"a": "$tenant"}, {"tenant": '{"a":"$tenant"}', "weight": 2.5})},
    ),
    Function(
        "list_tenants",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"limit": 10000}},
        wrong={"filter": ([1], INVALID)},
        setup="tenant",
        right=[{"tenant": "$tenant", "weight": 2}],
        view=select_items("tenant", "$tenant"),
    ),
]

SCHEDULES = [
    Function(
        "set_schedule",
        "service",
        "name text, schedule jsonb",
        args={
            "name": "$name",
            "schedule": {"cron": "30 3 * * *", "timezone": "Europe/Berlin", "job_type": JOB_TYPE},
        },
        right={
            "name": "$name",
            "cron": "30 3 * * *",
            "timezone": "Europe/Berlin",
            "missed": "once",
            "paused": False,
            "job": {"job_type": JOB_TYPE},
        },
        null={"name": INVALID, "schedule": INVALID},
        wrong={"name": (_OBJECT, INVALID), "schedule": ("@daily", INVALID)},
    ),
    Function(
        "list_schedules",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"limit": 10000}},
        wrong={"filter": ([1], INVALID)},
        setup="schedule",
        right=[{"name": "$name", "every_seconds": 3600, "paused": False}],
        view=select_items("name", "$name"),
    ),
    _schedule_function("pause_schedule", {"name": "$name", "paused": True, "next_at": None}),
    _schedule_function("resume_schedule", {"name": "$name", "paused": False, "next_at": "<time>"}),
    Function(
        "run_schedule",
        "service",
        "name text, job_id uuid=",
        args={"name": "$name", "job_id": "$job"},
        setup="schedule",
        right={"job_id": "$job", "outcome": "created"},
        repeated={"job_id": "$job", "outcome": "existing"},
        absent={"job_id": {"job_id": "<uuid>", "outcome": "created"}},
        null={"name": _NO_SCHEDULE},
        wrong={"name": (_OBJECT, _NO_SCHEDULE)},
    ),
    Function(
        "delete_schedule",
        "service",
        "name text, request_id uuid=",
        args={"name": "$name"},
        setup="schedule",
        right={"deleted": True},
        repeated={"deleted": False},
        null={"name": {"deleted": False}},
        wrong={"name": (_OBJECT, {"deleted": False})},
    ),
]

PROJECT = [
    Function(
        "get_settings",
        "service",
        "",
        read_only=True,
        right={"max_payload_bytes": ..., "archive": ...},
    ),
    Function(
        "set_setting",
        "service",
        "changes jsonb",
        # Set the current value, so that the settings of the project do not change.
        args={"changes": {"keep_archive_months": "$months"}},
        setup="settings",
        right={"keep_archive_months": ..., "unknown_queue": ...},
        null={"changes": INVALID},
        wrong={"changes": ("all", INVALID)},
    ),
    Function(
        "maintain_jobs",
        "service",
        "force boolean=, worker text=",
        args={"force": False, "worker": "$worker"},
        # The answer depends on the worker and the time of the last maintenance.
        right=...,
        wrong={"worker": (_OBJECT, ...)},
    ),
    Function(
        "queue_doctor",
        "service",
        "client_time timestamp with time zone=",
        args={"client_time": "2026-01-01T00:00:00+00:00"},
        right=...,
        absent={"client_time": ...},
        view=select_fields("check"),
    ),
    Function("picture_queue_version", "user", "", read_only=True, right=_VERSION, foreign=_VERSION),
]
