"""Cases for each of our error codes, and a case in which one outcome of a report is busy."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.conformance.matrix.case import Case, our_error
from tests.conformance.matrix.setups import JOB_TYPE, PROMPT

_ITEM = {"job_type": JOB_TYPE, "queue": "$queue"}
_FOR_ACCOUNT = {"prompt": PROMPT, "options": {"user_id": "$account"}}
_UNIQUE = {"unique": {"by": ["n"], "on_conflict": "replace"}}


def _case(
    code: str, function: str, args: Mapping[str, Any], setup: str = "", **other_fields: Any
) -> Case:
    fields = {"role": "service", **other_fields}
    return Case(
        f"{code}/{function}", function, args=args, expected=our_error(code), setup=setup, **fields
    )


_CASES = [
    _case("PQ_INVALID_ARGUMENT", "list_jobs", {"filter": {"colour": "red"}}, role="ada"),
    _case("PQ_INVALID_ARGUMENT", "list_generations", {"filter": {"colour": "red"}}, role="ada"),
    _case("PQ_INVALID_ARGUMENT", "list_generations", {"filter": {"limit": "all"}}, role="ada"),
    _case(
        "PQ_INVALID_ARGUMENT",
        "pause_queue",
        {"queue": "$queue", "resume_at": "2001-01-01T00:00:00Z"},
        "queue",
    ),
    _case(
        "PQ_INVALID_ARGUMENT",
        "register_worker",
        {"worker": "$worker", "queues": ["$queue"], "job_types": {JOB_TYPE: 7}},
    ),
    _case("PQ_INVALID_ARGUMENT", "heartbeat_jobs", {"worker": "$worker", "leases": [7]}),
    _case(
        "PQ_INVALID_ARGUMENT",
        "save_images",
        {"job_id": "$job", "lease_id": "$lease", "images": [{"path": "a.png"}]},
        "prediction",
    ),
    _case(
        "PQ_INVALID_CRON",
        "set_schedule",
        {"name": "$name", "schedule": {"cron": "61 * * * *", "job_type": JOB_TYPE}},
    ),
    _case(
        "PQ_NOT_ALLOWED",
        "start_generation",
        {"prompt": PROMPT, "options": {"priority": 9}},
        role="ada",
    ),
    _case(
        "PQ_NOT_AUTHENTICATED",
        "start_generation",
        {"prompt": PROMPT},
        role="no_user",
        needs="secret",
    ),
    _case("PQ_UNKNOWN_JOB", "get_job", {"job_id": "$job"}, role="ada"),
    _case("PQ_UNKNOWN_GENERATION", "get_generation", {"generation_id": "$generation"}, role="ada"),
    _case(
        "PQ_UNKNOWN_GENERATION",
        "begin_prediction",
        {"job_id": "$job", "lease_id": "$lease"},
        "running",
    ),
    _case(
        "PQ_UNKNOWN_MODEL", "start_generation", {"prompt": PROMPT, "model_id": "a/b"}, role="ada"
    ),
    _case("PQ_UNKNOWN_QUEUE", "pause_queue", {"queue": "$queue"}),
    _case(
        "PQ_UNKNOWN_DEPENDENCY", "enqueue_job", {**_ITEM, "options": {"depends_on": ["$parent"]}}
    ),
    _case("PQ_UNKNOWN_SCHEDULE", "run_schedule", {"name": "$name"}),
    _case("PQ_UNKNOWN_BATCH", "enqueue_job", {**_ITEM, "options": {"batch_id": "$batch"}}),
    _case(
        "PQ_UNKNOWN_RULE",
        "delete_input_rule",
        {"model": "$key", "input": "scale", "action": "cap"},
    ),
    _case("PQ_UNKNOWN_LIMIT", "delete_limit", {"key": "$key"}),
    _case("PQ_UNKNOWN_BUDGET", "delete_budget", {"key": "plan:$plan"}),
    _case("PQ_RATE_LIMITED", "start_generation", _FOR_ACCOUNT, "exhausted rate"),
    _case("PQ_OVER_BUDGET", "start_generation", _FOR_ACCOUNT, "exhausted budget"),
    _case("PQ_NO_CREDIT", "start_generation", _FOR_ACCOUNT, "no credits"),
    _case("PQ_CONFLICT", "enqueue_job", {"job_type": "another", "job_id": "$job"}, "pending"),
    _case(
        "PQ_CONFLICT", "enqueue_job", {**_ITEM, "options": {"batch_id": "$batch"}}, "finished batch"
    ),
    _case("PQ_CONFLICT", "retry_job", {"job_id": "$job"}, "unique key in use"),
    _case(
        "PQ_STALE_LEASE",
        "report_progress",
        {"job_id": "$job", "lease_id": "$other", "progress": 5},
        "running",
    ),
    _case("PQ_STALE_LEASE", "complete_job", {"job_id": "$job"}, "running"),
    _case("PQ_FINISHED_JOB", "cancel_job", {"job_id": "$job"}, "completed", role="ada"),
    _case("PQ_FINISHED_JOB", "retry_job", {"job_id": "$job"}, "completed"),
    _case("PQ_RUNNING_JOB", "retry_job", {"job_id": "$job"}, "running"),
    _case(
        "PQ_RUNNING_JOB",
        "enqueue_job",
        {**_ITEM, "payload": {"n": "$text"}, "user_id": "$ada", "options": _UNIQUE},
        "unique running",
    ),
    _case("PQ_QUEUE_DRAINING", "enqueue_job", _ITEM, "draining queue"),
    _case("PQ_TOO_LARGE", "enqueue_job", {**_ITEM, "payload": {"text": "x" * 70_000}}),
    _case("PQ_TOO_LARGE", "send_event", {"name": "$event", "payload": "x" * 70_000}),
    _case("PQ_INVALID_INPUT", "start_generation", {"prompt": " "}, role="ada"),
    _case(
        "PQ_INVALID_INPUT",
        "start_generation",
        {"prompt": PROMPT, "input": {"num_outputs": 99}},
        role="ada",
    ),
    _case(
        "PQ_CYCLE",
        "enqueue_jobs",
        {"jobs": [{**_ITEM, "job_id": "$job", "options": {"depends_on": ["$job"]}}]},
    ),
    _case(
        "PQ_BUSY",
        "report_jobs",
        {"outcomes": [{"job_id": "$job", "lease_id": "$lease", "outcome": "released"}]},
        "running",
        needs="locks",
    ),
    # The test locks the row of `$job`, so only the outcome of this job is busy.
    Case(
        "busy outcome/report_jobs",
        "report_jobs",
        "service",
        {
            "outcomes": [
                {"job_id": "$job", "lease_id": "$lease", "outcome": "released"},
                {"job_id": "$other", "lease_id": "$lease", "outcome": "released"},
            ],
        },
        {
            "outcomes": [
                {"job_id": "$job", "outcome": "busy", "status": None},
                {"job_id": "$other", "outcome": "ok", "status": "pending"},
            ],
            "jobs": [],
        },
        "two running",
        needs="locks",
    ),
]


def _numbered(cases: list[Case]) -> Iterator[Case]:
    """Append a number to the id of the second and later cases with the same code and function."""
    counts: Counter[str] = Counter()
    for case in cases:
        counts[case.id] += 1
        number = counts[case.id]
        yield replace(case, id=f"{case.id} {number}") if number > 1 else case


CODES = list(_numbered(_CASES))
