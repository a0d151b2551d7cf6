"""The rows that a call needs, created by other calls with a service key.

A step stores parts of its answer under names, by their path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TYPE = "conformance"
PROMPT = "a lighthouse"
#: This priority comes before all other jobs of the project.
FIRST = 1_000_000_000


@dataclass(frozen=True)
class Step:
    """One call. ``keep`` has the paths of the stored parts, such as ``0.lease_id``."""

    function: str
    args: Mapping[str, Any]
    keep: Mapping[str, str]


def step(function: str, args: Mapping[str, Any], **keep: str) -> Step:
    return Step(function, args, keep)


def claim(queue: str, **more: Any) -> Step:
    asked = {"worker": TYPE, "queues": [queue], "job_types": [TYPE], "lease_seconds": 600}
    return step("claim_jobs", {**asked, "request_id": "$lease", **more}, lease="0.lease_id")


def ended(outcome: str, **more: Any) -> Step:
    report = {"job_id": "$job", "lease_id": "$lease", "outcome": outcome, **more}
    return step("report_jobs", {"outcomes": [report]})


_JOB = {"job_type": TYPE, "payload": {"n": 1}, "queue": "$queue", "user_id": "$ada"}
_PENDING = [step("enqueue_job", {**_JOB, "job_id": "$job"})]
_RUNNING = [*_PENDING, claim("$queue")]


def _generation(**options: Any) -> Step:
    given = {"user_id": "$ada", "generation_id": "$generation", **options}
    return step("start_generation", {"prompt": PROMPT, "options": given}, job="job_id")


_GENERATION = [_generation(scheduled_for="2099-01-01T00:00:00Z")]
_DRAWING = [
    _generation(priority=FIRST),
    step("get_job", {"job_id": "$job"}, line="queue"),
    claim("$line", job_types=["generate-image"]),
]
_PREDICTION = [
    *_DRAWING,
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

SETUPS: dict[str, list[Step]] = {
    "": [],
    "queue": [step("set_queue", {"queue": "$queue"})],
    "draining queue": [step("set_queue", {"queue": "$queue", "changes": {"draining": True}})],
    "pending": _PENDING,
    "first in line": [step("enqueue_job", {**_JOB, "job_id": "$job", "priority": FIRST})],
    "running": _RUNNING,
    "two running": [
        *_PENDING,
        step("enqueue_job", {**_JOB, "job_id": "$other"}),
        claim("$queue", max_jobs=2),
    ],
    "parked": [*_RUNNING, ended("parked", event="$event", delay_seconds=86400)],
    "completed": [*_RUNNING, ended("completed", result={"path": "a.png"})],
    "failed": [
        *_RUNNING,
        ended("failed", error="Model 7 is out", detail="inner", retryable=False),
    ],
    "cancelled": [*_PENDING, step("cancel_job", {"job_id": "$job"})],
    "lent": [*_PENDING, step("claim_next_job", {"queue": "$queue"}, lease="0.lease_id")],
    "batch": [
        step(
            "enqueue_batch",
            {"jobs": [{**_JOB, "job_id": "$job"}], "batch_id": "$batch"},
        )
    ],
    "finished batch": [step("enqueue_batch", {"jobs": [], "batch_id": "$batch"})],
    "limit": [step("set_limit", {"key": "$key", "max_running": 5})],
    "paused key": [step("pause_key", {"key": "$key"})],
    "tenant": [step("set_tenant", {"tenant": "$tenant", "weight": 2})],
    "schedule": [
        step(
            "set_schedule",
            {
                "name": "$name",
                "schedule": {"every_seconds": 3600, "job_type": TYPE, "queue": "$queue"},
            },
        )
    ],
    "worker": [
        step(
            "register_worker",
            {"worker": "$worker", "queues": ["$queue"], "job_types": {TYPE: {}}},
        )
    ],
    "settings": [step("get_settings", {}, months="keep_archive_months")],
    "generation": _GENERATION,
    "drawn": [*_GENERATION, step("cancel_job", {"job_id": "$job"})],
    "drawing": _DRAWING,
    "prediction": _PREDICTION,
    "unique running": [
        step("enqueue_jobs", {"jobs": [{**_UNIQUE, "job_id": "$job"}]}),
        claim("$queue"),
    ],
    "unique taken": [
        step("enqueue_jobs", {"jobs": [{**_UNIQUE, "job_id": "$job"}]}),
        step("cancel_job", {"job_id": "$job"}),
        step("enqueue_jobs", {"jobs": [_UNIQUE]}),
    ],
}
