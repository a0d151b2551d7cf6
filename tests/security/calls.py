"""The arguments of a successful call of each function of the API.

The calls can run in the order of this file. `test_matrix.py` fails if a function is missing here.
"""

from collections.abc import Callable
from typing import Any

from tests.security.sample_project import SECRET, SampleProject, owner_image_path

Arguments = dict[str, Any]


def _generation_lease(project: SampleProject, **more: Any) -> Arguments:
    return {"job_id": project["generation_job"], "lease_id": project["generation_lease"], **more}


def _running(project: SampleProject, **more: Any) -> Arguments:
    return {"job_id": project["running"], "lease_id": project["running_lease"], **more}


def _item(project: SampleProject) -> Arguments:
    return {
        "job_type": project.job_type,
        "queue": f"{project.queue}-items",
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


def _jobs(project: SampleProject) -> Arguments:
    """Return a filter that selects jobs of the owner."""
    return {
        "job_type": project.job_type,
        "tag": SECRET,
        "metadata": {"note": SECRET},
        "user_id": project.users["owner"],
        "created_after": "2020-01-01T00:00:00Z",
    }


CALLS: dict[str, Callable[[SampleProject], Arguments]] = {
    # For users.
    "picture_queue_version": lambda project: {},
    "list_models": lambda project: {},
    "get_job": lambda project: {"job_id": project["pending"]},
    "list_jobs": lambda project: {"filter": {**_jobs(project), "limit": 10}},
    "job_position": lambda project: {"job_id": project["pending"]},
    "explain_jobs": lambda project: {
        "job_ids": [project["pending"], project["running"], project["failed"]]
    },
    "get_generation": lambda project: {"generation_id": project["generation"]},
    "list_generations": lambda project: {
        "filter": {"limit": 10, "before": "2999-01-01T00:00:00Z", "search": "dog"}
    },
    "start_generation": lambda project: {
        "prompt": "a dog",
        "model_id": "black-forest-labs/flux-schnell",
        "input": {"output_format": "png"},
        "options": {"idempotency_key": "dog", "scheduled_for": "2999-01-01T00:00:00Z"},
    },
    "get_account": lambda project: {"user_id": project.users["owner"]},
    "cancel_job": lambda project: {"job_id": project["spare"]},
    "cancel_generation": lambda project: {"generation_id": project["other_generation"]},
    "start_generations": lambda project: {
        "requests": [{"prompt": "a dog", "input": {"seed": 7}, "then": [{"kind": "upscale"}]}],
        "options": {"scheduled_for": "2999-01-01T00:00:00Z"},
    },
    "generation_batch": lambda project: {"batch_id": project["generation_batch"]},
    "cancel_generation_batch": lambda project: {"batch_id": project["generation_batch"]},
    "set_favourite": lambda project: {"generation_id": project["generation"]},
    "delete_generation": lambda project: {"generation_id": project["ended_generation"]},
    # For the service key.
    "list_deleted_generations": lambda project: {"generation_ids": [project["ended_generation"]]},
    "record_deleted_files": lambda project: {"generation_ids": [project["ended_generation"]]},
    "enqueue_job": lambda project: {
        **_item(project),
        "user_id": project.users["owner"],
        "scheduled_for": None,
    },
    "enqueue_jobs": lambda project: {"jobs": [_item(project)]},
    "enqueue_batch": lambda project: {
        "jobs": [_item(project)],
        "callback": {"job_type": project.job_type, "queue": project.queue},
        "metadata": {"k": "v"},
    },
    "get_batch": lambda project: {"batch_id": project["batch"]},
    "send_event": lambda project: {"name": f"{SECRET}:1", "payload": {"note": "x"}},
    "get_job_history": lambda project: {"job_id": project["failed"]},
    "failure_reasons": lambda project: {"filter": _jobs(project)},
    "retry_job": lambda project: {"job_id": project["failed"]},
    "change_jobs": lambda project: {"action": "cancel", "filter": _jobs(project), "preview": True},
    "set_queue": lambda project: {
        "queue": f"{project.queue}-set",
        "changes": {"backoff_policy": "linear"},
    },
    "pause_queue": lambda project: {"queue": f"{project.queue}-set", "reason": SECRET},
    "resume_queue": lambda project: {"queue": f"{project.queue}-set"},
    "drain_queue": lambda project: {"queue": f"{project.queue}-set"},
    "purge_queue": lambda project: {"queue": f"{project.queue}-set", "preview": True},
    "list_queues": lambda project: {},
    "queue_counts": lambda project: {},
    "queue_status": lambda project: {},
    "desired_workers": lambda project: {"queue": project.queue},
    "set_model": lambda project: {
        "model_id": f"{SECRET}/model",
        "changes": {"kind": "upscale", "inputs": [{"name": "image", "type": "string"}]},
    },
    "set_input_rule": lambda project: {
        "model": f"{SECRET}/model",
        "input": "scale",
        "action": "cap",
        "value": 2,
    },
    "list_input_rules": lambda project: {},
    "delete_input_rule": lambda project: {
        "model": f"{SECRET}/model",
        "input": "scale",
        "action": "cap",
    },
    "set_limit": lambda project: {"key": f"host:{SECRET}", "max_running": 5},
    "list_limits": lambda project: {},
    "delete_limit": lambda project: {"key": f"host:{SECRET}"},
    "set_budget": lambda project: {"key": "plan:nightly", "changes": {"per_minute": 5}},
    "list_budgets": lambda project: {},
    "delete_budget": lambda project: {"key": "plan:nightly"},
    "set_account": lambda project: {"user_id": project.users["owner"], "plan": "nightly"},
    "grant_credits": lambda project: {"user_id": project.users["owner"], "usd": 5, "note": SECRET},
    "list_accounts": lambda project: {},
    "list_ledger": lambda project: {"filter": {"user_id": project.users["owner"]}},
    "pause_key": lambda project: {"key": f"host:{SECRET}"},
    "resume_key": lambda project: {"key": f"host:{SECRET}"},
    "set_tenant": lambda project: {"tenant": SECRET, "weight": 1},
    "list_tenants": lambda project: {},
    "set_schedule": lambda project: {
        "name": f"{SECRET}-hourly",
        "schedule": {
            "cron": "0 * * * *",
            "timezone": "Europe/Berlin",
            "missed": "skip",
            "job_type": project.job_type,
            "queue": project.queue,
            "payload": {"note": "x"},
        },
    },
    "list_schedules": lambda project: {},
    "pause_schedule": lambda project: {"name": f"{SECRET}-nightly"},
    "resume_schedule": lambda project: {"name": f"{SECRET}-nightly"},
    "run_schedule": lambda project: {"name": f"{SECRET}-nightly"},
    "delete_schedule": lambda project: {"name": f"{SECRET}-nightly"},
    "get_settings": lambda project: {},
    "set_setting": lambda project: {"changes": {"unknown_queue": "create", "backoff_policy": None}},
    "maintain_jobs": lambda project: {"force": False},
    "queue_doctor": lambda project: {},
    # For workers.
    "register_worker": lambda project: {
        "worker": SECRET,
        "queues": [project.queue],
        "job_types": {project.job_type: {"queue": project.queue, "backoff_policy": "linear"}},
    },
    "claim_jobs": lambda project: {
        "worker": SECRET,
        "queues": ["none"],
        "job_types": [project.job_type],
    },
    "claim_next_job": lambda project: {"queue": "none"},
    "heartbeat_jobs": lambda project: {"worker": "w", "leases": [_running(project)]},
    "report_progress": lambda project: _running(project, progress=1, message=SECRET),
    "log_job": lambda project: _running(project, lines=[{"level": "info", "message": SECRET}]),
    "complete_job": lambda project: {"job_id": project["legacy"], "result": {"note": SECRET}},
    "begin_prediction": lambda project: _generation_lease(project),
    "record_prediction": lambda project: _generation_lease(
        project, prediction=project["prediction"], prediction_id=f"{SECRET}-prediction"
    ),
    "save_images": lambda project: _generation_lease(
        project,
        images=[
            {
                "n": 1,
                "path": owner_image_path(project),
                "mime_type": "image/png",
                "width": 1,
                "height": 1,
                "bytes": 4,
            }
        ],
    ),
    "finish_prediction": lambda project: _generation_lease(
        project,
        prediction=project["prediction"],
        state="succeeded",
        error=None,
        metrics={"note": SECRET},
    ),
    "receive_prediction": lambda project: {
        "prediction": project["prediction"],
        "prediction_id": f"{SECRET}-prediction",
        "status": "processing",
        "progress": 50,
        "message": SECRET,
    },
    "report_jobs": lambda project: {
        "outcomes": [_running(project, outcome="completed", result={"note": SECRET})],
        "claim": {
            "worker": SECRET,
            "queues": ["none"],
            "job_types": [project.job_type],
            "max_jobs": 1,
            "lease_seconds": 30,
            "request_id": project["batch"],
        },
    },
    "unregister_worker": lambda project: {"worker": SECRET},
}
