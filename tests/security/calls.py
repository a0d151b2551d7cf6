"""The arguments of a successful call of each function of the API.

The calls can run in the order of this file. `test_matrix.py` fails if a function is missing here.
"""

from collections.abc import Callable
from typing import Any

from tests.security.world import SECRET, World, owner_image_path

Arguments = dict[str, Any]


def _generation_lease(world: World, **more: Any) -> Arguments:
    return {"job_id": world["generation_job"], "lease_id": world["generation_lease"], **more}


def _running(world: World, **more: Any) -> Arguments:
    return {"job_id": world["running"], "lease_id": world["running_lease"], **more}


def _item(world: World) -> Arguments:
    return {
        "job_type": world.job_type,
        "queue": f"{world.queue}-items",
        "payload": {"note": "x"},
        "idempotency_key": "once",
        "options": {
            "tags": ["a"],
            "metadata": {"k": "v"},
            "tenant": "t",
            "limit_keys": ["host:example.com"],
            "backoff": {"policy": "linear"},
            "on_parent_failure": "run",
        },
    }


def _jobs(world: World) -> Arguments:
    """Return a filter that selects jobs of the owner."""
    return {
        "job_type": world.job_type,
        "tag": SECRET,
        "metadata": {"note": SECRET},
        "user_id": world.users["owner"],
        "created_after": "2020-01-01T00:00:00Z",
    }


CALLS: dict[str, Callable[[World], Arguments]] = {
    # For users.
    "picture_queue_version": lambda w: {},
    "list_models": lambda w: {},
    "get_job": lambda w: {"job_id": w["pending"]},
    "list_jobs": lambda w: {"filter": {**_jobs(w), "limit": 10}},
    "job_position": lambda w: {"job_id": w["pending"]},
    "explain_jobs": lambda w: {"job_ids": [w["pending"], w["running"], w["failed"]]},
    "get_generation": lambda w: {"generation_id": w["generation"]},
    "list_generations": lambda w: {
        "filter": {"limit": 10, "before": "2999-01-01T00:00:00Z", "search": "dog"}
    },
    "start_generation": lambda w: {
        "prompt": "a dog",
        "model_id": "black-forest-labs/flux-schnell",
        "input": {"output_format": "png"},
        "options": {"idempotency_key": "dog", "scheduled_for": "2999-01-01T00:00:00Z"},
    },
    "get_account": lambda w: {"user_id": w.users["owner"]},
    "cancel_job": lambda w: {"job_id": w["spare"]},
    "cancel_generation": lambda w: {"generation_id": w["other_generation"]},
    "start_generations": lambda w: {
        "requests": [{"prompt": "a dog", "input": {"seed": 7}, "then": [{"kind": "upscale"}]}],
        "options": {"scheduled_for": "2999-01-01T00:00:00Z"},
    },
    "generation_batch": lambda w: {"batch_id": w["generation_batch"]},
    "cancel_generation_batch": lambda w: {"batch_id": w["generation_batch"]},
    "set_favourite": lambda w: {"generation_id": w["generation"]},
    "delete_generation": lambda w: {"generation_id": w["ended_generation"]},
    # For the service key.
    "list_deleted_generations": lambda w: {"generation_ids": [w["ended_generation"]]},
    "record_deleted_files": lambda w: {"generation_ids": [w["ended_generation"]]},
    "enqueue_job": lambda w: {**_item(w), "user_id": w.users["owner"], "scheduled_for": None},
    "enqueue_jobs": lambda w: {"jobs": [_item(w)]},
    "enqueue_batch": lambda w: {
        "jobs": [_item(w)],
        "callback": {"job_type": w.job_type, "queue": w.queue},
        "metadata": {"k": "v"},
    },
    "get_batch": lambda w: {"batch_id": w["batch"]},
    "send_event": lambda w: {"name": f"{SECRET}:1", "payload": {"note": "x"}},
    "get_job_history": lambda w: {"job_id": w["failed"]},
    "failure_reasons": lambda w: {"filter": _jobs(w)},
    "retry_job": lambda w: {"job_id": w["failed"]},
    "change_jobs": lambda w: {"action": "cancel", "filter": _jobs(w), "preview": True},
    "set_queue": lambda w: {"queue": f"{w.queue}-set", "changes": {"backoff_policy": "linear"}},
    "pause_queue": lambda w: {"queue": f"{w.queue}-set", "reason": SECRET},
    "resume_queue": lambda w: {"queue": f"{w.queue}-set"},
    "drain_queue": lambda w: {"queue": f"{w.queue}-set"},
    "purge_queue": lambda w: {"queue": f"{w.queue}-set", "preview": True},
    "list_queues": lambda w: {},
    "queue_counts": lambda w: {},
    "queue_status": lambda w: {},
    "desired_workers": lambda w: {"queue": w.queue},
    "set_model": lambda w: {
        "model_id": f"{SECRET}/model",
        "changes": {"kind": "upscale", "inputs": [{"name": "image", "type": "string"}]},
    },
    "set_input_rule": lambda w: {
        "model": f"{SECRET}/model",
        "input": "scale",
        "action": "cap",
        "value": 2,
    },
    "list_input_rules": lambda w: {},
    "delete_input_rule": lambda w: {
        "model": f"{SECRET}/model",
        "input": "scale",
        "action": "cap",
    },
    "set_limit": lambda w: {"key": f"host:{SECRET}", "max_running": 5},
    "list_limits": lambda w: {},
    "delete_limit": lambda w: {"key": f"host:{SECRET}"},
    "set_budget": lambda w: {"key": "plan:nightly", "changes": {"per_minute": 5}},
    "list_budgets": lambda w: {},
    "delete_budget": lambda w: {"key": "plan:nightly"},
    "set_account": lambda w: {"user_id": w.users["owner"], "plan": "nightly"},
    "grant_credits": lambda w: {"user_id": w.users["owner"], "usd": 5, "note": SECRET},
    "list_accounts": lambda w: {},
    "list_ledger": lambda w: {"filter": {"user_id": w.users["owner"]}},
    "pause_key": lambda w: {"key": f"host:{SECRET}"},
    "resume_key": lambda w: {"key": f"host:{SECRET}"},
    "set_tenant": lambda w: {"tenant": SECRET, "weight": 1},
    "list_tenants": lambda w: {},
    "set_schedule": lambda w: {
        "name": f"{SECRET}-hourly",
        "schedule": {
            "cron": "0 * * * *",
            "timezone": "Europe/Berlin",
            "missed": "skip",
            "job_type": w.job_type,
            "queue": w.queue,
            "payload": {"note": "x"},
        },
    },
    "list_schedules": lambda w: {},
    "pause_schedule": lambda w: {"name": f"{SECRET}-nightly"},
    "resume_schedule": lambda w: {"name": f"{SECRET}-nightly"},
    "run_schedule": lambda w: {"name": f"{SECRET}-nightly"},
    "delete_schedule": lambda w: {"name": f"{SECRET}-nightly"},
    "get_settings": lambda w: {},
    "set_setting": lambda w: {"changes": {"unknown_queue": "create", "backoff_policy": None}},
    "maintain_jobs": lambda w: {"force": False},
    "queue_doctor": lambda w: {},
    # For workers.
    "register_worker": lambda w: {
        "worker": SECRET,
        "queues": [w.queue],
        "job_types": {w.job_type: {"queue": w.queue, "backoff_policy": "linear"}},
    },
    "claim_jobs": lambda w: {"worker": SECRET, "queues": ["none"], "job_types": [w.job_type]},
    "claim_next_job": lambda w: {"queue": "none"},
    "heartbeat_jobs": lambda w: {"worker": "w", "leases": [_running(w)]},
    "report_progress": lambda w: _running(w, progress=1, message=SECRET),
    "log_job": lambda w: _running(w, lines=[{"level": "info", "message": SECRET}]),
    "complete_job": lambda w: {"job_id": w["legacy"], "result": {"note": SECRET}},
    "begin_prediction": lambda w: _generation_lease(w),
    "record_prediction": lambda w: _generation_lease(
        w, prediction=w["prediction"], prediction_id=f"{SECRET}-prediction"
    ),
    "save_images": lambda w: _generation_lease(
        w,
        images=[
            {
                "n": 1,
                "path": owner_image_path(w),
                "mime_type": "image/png",
                "width": 1,
                "height": 1,
                "bytes": 4,
            }
        ],
    ),
    "finish_prediction": lambda w: _generation_lease(
        w, prediction=w["prediction"], state="succeeded", error=None, metrics={"note": SECRET}
    ),
    "receive_prediction": lambda w: {
        "prediction": w["prediction"],
        "prediction_id": f"{SECRET}-prediction",
        "status": "processing",
        "progress": 50,
        "message": SECRET,
    },
    "report_jobs": lambda w: {
        "outcomes": [_running(w, outcome="completed", result={"note": SECRET})],
        "claim": {
            "worker": SECRET,
            "queues": ["none"],
            "job_types": [w.job_type],
            "max_jobs": 1,
            "lease_seconds": 30,
            "request_id": w["batch"],
        },
    },
    "unregister_worker": lambda w: {"worker": SECRET},
}
