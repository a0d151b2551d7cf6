"""Setups: calls with a service key that create the rows that a case needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JOB_TYPE = "conformance"
PROMPT = "a lighthouse"
#: A job of this priority is claimed before all other jobs of the project.
TOP_PRIORITY = 1_000_000_000


@dataclass(frozen=True)
class Step:
    """A call of a setup.

    Args:
        function: The function.
        args: The arguments by name.
        saved: By placeholder, the path of its value in the answer, such as ``0.lease_id``.
    """

    function: str
    args: Mapping[str, Any]
    saved: Mapping[str, str]


def step(function: str, args: Mapping[str, Any], **saved: str) -> Step:
    return Step(function, args, saved)


def claim(queue: str, **other_args: Any) -> Step:
    """Return a claim of one job. The request id of a claim becomes the lease id of its jobs."""
    args = {
        "worker": "conformance-worker",
        "queues": [queue],
        "job_types": [JOB_TYPE],
        "lease_seconds": 600,
        "request_id": "$lease",
    }
    return step("claim_jobs", {**args, **other_args}, lease="0.lease_id")


def report(outcome: str, **other_fields: Any) -> Step:
    item = {"job_id": "$job", "lease_id": "$lease", "outcome": outcome, **other_fields}
    return step("report_jobs", {"outcomes": [item]})


_JOB = {"job_type": JOB_TYPE, "payload": {"n": 1}, "queue": "$queue", "user_id": "$ada"}
_PENDING = [step("enqueue_job", {**_JOB, "job_id": "$job"})]
_RUNNING = [*_PENDING, claim("$queue")]


def _generation(**options: Any) -> Step:
    options = {"user_id": "$ada", "generation_id": "$generation", **options}
    return step("start_generation", {"prompt": PROMPT, "options": options}, job="job_id")


_GENERATION = [_generation(scheduled_for="2099-01-01T00:00:00Z")]
_RUNNING_GENERATION = [
    _generation(priority=TOP_PRIORITY),
    step("get_job", {"job_id": "$job"}, generation_queue="queue"),
    claim("$generation_queue", job_types=["generate-image"]),
]
_PREDICTION = [
    *_RUNNING_GENERATION,
    step(
        "begin_prediction",
        {"job_id": "$job", "lease_id": "$lease"},
        prediction="prediction.id",
    ),
]
_UNIQUE = {
    **_JOB,
    "payload": {"n": "$text"},
    "options": {"unique": {"by": ["n"], "on_conflict": "replace"}},
}


def _plan(**changes: Any) -> list[Step]:
    """Return the calls that give a new user a plan with a budget."""
    return [
        step("set_budget", {"key": "plan:$plan", "changes": changes}),
        step("set_account", {"user_id": "$account", "plan": "$plan"}),
    ]


SETUPS: dict[str, list[Step]] = {
    "": [],
    "queue": [step("set_queue", {"queue": "$queue"})],
    "draining queue": [step("set_queue", {"queue": "$queue", "changes": {"draining": True}})],
    "pending": _PENDING,
    "highest priority": [step("enqueue_job", {**_JOB, "job_id": "$job", "priority": TOP_PRIORITY})],
    "running": _RUNNING,
    "two running": [
        *_PENDING,
        step("enqueue_job", {**_JOB, "job_id": "$other"}),
        claim("$queue", max_jobs=2),
    ],
    "parked": [*_RUNNING, report("parked", event="$event", delay_seconds=86400)],
    "completed": [*_RUNNING, report("completed", result={"path": "a.png"})],
    "failed": [
        *_RUNNING,
        report("failed", error="Model 7 is out", detail="inner", retryable=False),
    ],
    "cancelled": [*_PENDING, step("cancel_job", {"job_id": "$job"})],
    "claimed by claim_next_job": [
        *_PENDING,
        step("claim_next_job", {"queue": "$queue"}, lease="0.lease_id"),
    ],
    "batch": [
        step(
            "enqueue_batch",
            {"jobs": [{**_JOB, "job_id": "$job"}], "batch_id": "$batch"},
        )
    ],
    "finished batch": [step("enqueue_batch", {"jobs": [], "batch_id": "$batch"})],
    "limit": [step("set_limit", {"key": "$key", "max_running": 5})],
    "input rule": [
        step(
            "set_input_rule",
            {"model": "$key", "input": "scale", "action": "cap", "value": 2},
        )
    ],
    "budget": [step("set_budget", {"key": "plan:$plan", "changes": {"usd_per_day": 1}})],
    "credits": [step("grant_credits", {"user_id": "$account", "usd": 5})],
    "no credits": _plan(needs_credits=True),
    "exhausted budget": _plan(usd_per_day=0),
    "exhausted rate": _plan(per_minute=0),
    "paused key": [step("pause_key", {"key": "$key"})],
    "tenant": [step("set_tenant", {"tenant": "$tenant", "weight": 2})],
    "schedule": [
        step(
            "set_schedule",
            {
                "name": "$name",
                "schedule": {"every_seconds": 3600, "job_type": JOB_TYPE, "queue": "$queue"},
            },
        )
    ],
    "worker": [
        step(
            "register_worker",
            {"worker": "$worker", "queues": ["$queue"], "job_types": {JOB_TYPE: {}}},
        )
    ],
    "settings": [step("get_settings", {}, months="keep_archive_months")],
    "generation": _GENERATION,
    "generation batch": [
        step(
            "start_generations",
            {
                "requests": [{"prompt": PROMPT}],
                "options": {
                    "user_id": "$ada",
                    "batch_id": "$batch",
                    "scheduled_for": "2099-01-01T00:00:00Z",
                },
            },
            generation="generations.0.generation_id",
            job="generations.0.job_id",
        )
    ],
    "cancelled generation": [*_GENERATION, step("cancel_job", {"job_id": "$job"})],
    "deleted generation": [
        *_GENERATION,
        step("cancel_job", {"job_id": "$job"}),
        step("delete_generation", {"generation_id": "$generation"}),
    ],
    "running generation": _RUNNING_GENERATION,
    "prediction": _PREDICTION,
    "unique running": [
        step("enqueue_jobs", {"jobs": [{**_UNIQUE, "job_id": "$job"}]}),
        claim("$queue"),
    ],
    "unique key in use": [
        step("enqueue_jobs", {"jobs": [{**_UNIQUE, "job_id": "$job"}]}),
        step("cancel_job", {"job_id": "$job"}),
        step("enqueue_jobs", {"jobs": [_UNIQUE]}),
    ],
}
