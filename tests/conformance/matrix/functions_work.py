"""Cases of the functions for workers and for generations."""

from picture_queue import _rpc
from tests.conformance.matrix.case import INVALID, NO_JOB, Function, only, our_error, without
from tests.conformance.matrix.setups import PROMPT, TYPE

_MAP = {"a": 1}
_STALE = our_error("PQ_STALE_LEASE")
_CONFLICT = our_error("PQ_CONFLICT")
_NO_GENERATION = our_error("PQ_UNKNOWN_GENERATION")
_VERSION = {"version": ..., "contract": _rpc.CONTRACT, "oldest_client_contract": 1}
_CLAIMED_JOB = {
    "id": "$job",
    "lease_id": "$lease",
    "attempt": 1,
    "queue": "$queue",
    "payload": {"n": 1},
}
#: The arguments of a call under the lease of the job.
_LEASE_ARGS = {"job_id": "$job", "lease_id": "$lease"}
#: The errors if one of these two arguments is null.
_NULL_LEASE_ERRORS = {"job_id": NO_JOB, "lease_id": _STALE}

WORKERS = [
    Function(
        "register_worker",
        "service",
        "worker text, queues text[], job_types jsonb",
        args={"worker": "$worker", "queues": ["$queue"], "job_types": {TYPE: {}}},
        right=_VERSION,
        null={"worker": INVALID, "queues": INVALID, "job_types": INVALID},
        wrong={"worker": (_MAP, _VERSION), "job_types": ([TYPE], INVALID)},
    ),
    Function(
        "unregister_worker",
        "service",
        "worker text",
        args={"worker": "$worker"},
        setup="worker",
        right=None,
        null={"worker": None},
        wrong={"worker": (7, None)},
    ),
    Function(
        "claim_jobs",
        "service",
        "worker text, queues text[], job_types text[], max_jobs integer=, lease_seconds real=, "
        "request_id uuid=, weights real[]=, confirms_start boolean=",
        args={
            "worker": "$worker",
            "queues": ["$queue"],
            "job_types": [TYPE],
            "max_jobs": 5,
            "lease_seconds": 60,
            "request_id": "$lease",
            "weights": [1],
            "confirms_start": True,
        },
        setup="pending",
        right=[{**_CLAIMED_JOB, "lease_seconds": 60}],
        absent={
            "lease_seconds": [{"id": "$job", "lease_seconds": 30}],
            "request_id": [{"id": "$job", "lease_id": "<uuid>"}],
        },
        null={
            "worker": INVALID,
            "queues": INVALID,
            "job_types": INVALID,
        },
        wrong={"worker": (_MAP, [{"id": "$job"}])},
    ),
    Function(
        "heartbeat_jobs",
        "service",
        "worker text, leases jsonb",
        args={"worker": "$worker", "leases": [_LEASE_ARGS]},
        setup="running",
        right={"cancel": [], "lost": []},
        null={"worker": {"cancel": [], "lost": []}, "leases": INVALID},
        wrong={"worker": (_MAP, {"cancel": [], "lost": []}), "leases": ("mine", INVALID)},
    ),
    Function(
        "report_progress",
        "service",
        "job_id uuid, lease_id uuid, progress integer, message text=",
        args={**_LEASE_ARGS, "progress": 40, "message": "half"},
        setup="running",
        right={"cancel_requested": False},
        null={**_NULL_LEASE_ERRORS, "progress": INVALID},
        wrong={"message": (_MAP, {"cancel_requested": False})},
    ),
    Function(
        "log_job",
        "service",
        "job_id uuid, lease_id uuid, lines jsonb",
        args={**_LEASE_ARGS, "lines": [{"level": "info", "message": "here"}]},
        setup="running",
        right={"kept": 1},
        repeated={"kept": 2},
        null={**_NULL_LEASE_ERRORS, "lines": INVALID},
        wrong={"lines": ("here", INVALID)},
    ),
    Function(
        "report_jobs",
        "service",
        "outcomes jsonb, claim jsonb=",
        args={
            "outcomes": [{**_LEASE_ARGS, "outcome": "completed", "result": {"n": 1}}],
            "claim": {
                "worker": "$worker",
                "queues": ["$queue"],
                "job_types": [TYPE],
                "max_jobs": 1,
                "request_id": "$request",
            },
        },
        setup="running",
        right={
            "outcomes": [{"job_id": "$job", "outcome": "ok", "status": "completed"}],
            "jobs": [],
        },
        repeated={
            "outcomes": [{"job_id": "$job", "outcome": "repeated", "status": "completed"}],
            "jobs": [],
        },
        null={"outcomes": INVALID},
        wrong={
            "outcomes": ("done", INVALID),
            "claim": (
                "more",
                {
                    "outcomes": [{"job_id": "$job", "outcome": "ok", "status": "completed"}],
                    "jobs": [],
                    "claim_error": "PQ_INVALID_ARGUMENT: an argument is invalid: "
                    "claim is not an object",
                },
            ),
        },
    ),
    Function(
        "claim_next_job",
        "service",
        "queue text=",
        args={"queue": "$queue"},
        setup="highest priority",
        right=[{"id": "$job", "status": "processing", "attempt": 1}],
        repeated=[],
        wrong={"queue": (_MAP, [])},
    ),
    Function(
        "complete_job",
        "service",
        "job_id uuid, result jsonb=, error text=, lease_id uuid=",
        args={**_LEASE_ARGS, "result": {"path": "a.png"}, "error": None},
        setup="claimed by claim_next_job",
        right="completed",
        null={"job_id": NO_JOB},
        wrong={"result": ("a.png", "completed"), "error": (_MAP, "pending")},
    ),
]

GENERATIONS = [
    Function(
        "start_generation",
        "user",
        "prompt text, model_id text=, input jsonb=, options jsonb=",
        args={
            "prompt": PROMPT,
            "model_id": "black-forest-labs/flux-schnell",
            "input": {"seed": 7},
            "options": {"generation_id": "$generation", "scheduled_for": "2099-01-01T00:00:00Z"},
        },
        right={"generation_id": "$generation", "job_id": "<uuid>", "status": "pending"},
        foreign={"generation_id": "$generation", "job_id": "<uuid>", "status": "pending"},
        absent={"options": {"generation_id": "<uuid>", "status": "pending"}},
        null={"prompt": our_error("PQ_INVALID_INPUT")},
        wrong={
            "prompt": (_MAP, {"generation_id": "$generation", "status": "pending"}),
            "model_id": (_MAP, our_error("PQ_UNKNOWN_MODEL")),
            "input": ([7], our_error("PQ_INVALID_INPUT")),
            "options": ("fast", INVALID),
        },
    ),
    Function(
        "get_generation",
        "user",
        "generation_id uuid",
        read_only=True,
        args={"generation_id": "$generation"},
        setup="cancelled generation",
        right={"id": "$generation", "prompt": PROMPT, "status": "cancelled", "images": []},
        foreign=_NO_GENERATION,
        null={"generation_id": _NO_GENERATION},
    ),
    Function(
        "list_generations",
        "user",
        "filter jsonb=",
        read_only=True,
        args={
            "filter": {
                "status": "cancelled",
                "model_id": "black-forest-labs/flux-schnell",
                "favourite": False,
                "search": PROMPT,
                "limit": 1000,
            }
        },
        setup="cancelled generation",
        right=[{"id": "$generation", "status": "cancelled", "images": []}],
        foreign=[],
        wrong={"filter": ([1], INVALID)},
        view=only("id", "$generation"),
    ),
    Function(
        "cancel_generation",
        "user",
        "generation_id uuid, request_id uuid=",
        args={"generation_id": "$generation"},
        setup="generation",
        right={
            "generation_id": "$generation",
            "job_id": "$job",
            "status": "cancelled",
            "cancel_requested": True,
        },
        foreign=_NO_GENERATION,
        null={"generation_id": _NO_GENERATION},
    ),
    Function(
        "set_favourite",
        "user",
        "generation_id uuid, favourite boolean=",
        args={"generation_id": "$generation", "favourite": True},
        setup="cancelled generation",
        right={"id": "$generation", "favourite": True, "images": []},
        foreign=_NO_GENERATION,
        null={"generation_id": _NO_GENERATION},
    ),
    Function(
        "delete_generation",
        "user",
        "generation_id uuid, request_id uuid=",
        args={"generation_id": "$generation"},
        setup="cancelled generation",
        right={"generation_id": "$generation", "deleted": True},
        foreign=_NO_GENERATION,
        null={"generation_id": _NO_GENERATION},
    ),
    Function(
        "list_deleted_generations",
        "service",
        "generation_ids uuid[]",
        read_only=True,
        args={"generation_ids": ["$generation"]},
        setup="deleted generation",
        right=[{"generation_id": "$generation", "folder": "$ada/$generation", "paths": []}],
        null={"generation_ids": INVALID},
    ),
    Function(
        "record_deleted_files",
        "service",
        "generation_ids uuid[]",
        args={"generation_ids": ["$generation"]},
        setup="deleted generation",
        right={"recorded": 1},
        repeated={"recorded": 0},
        null={"generation_ids": INVALID},
    ),
    Function(
        "list_models",
        "user",
        "",
        read_only=True,
        right=[{"model_id": "black-forest-labs/flux-schnell"}],
        foreign=[{"model_id": "black-forest-labs/flux-schnell"}],
        view=only("model_id", "black-forest-labs/flux-schnell"),
    ),
    Function(
        "begin_prediction",
        "service",
        "job_id uuid, lease_id uuid",
        args=_LEASE_ARGS,
        setup="running generation",
        right={
            "resumed": False,
            "images": [],
            "generation": {"id": "$generation", "prompt": PROMPT},
            "prediction": {"generation_id": "$generation", "state": "creating"},
        },
        repeated={"resumed": True, "prediction": {"generation_id": "$generation"}},
        null=_NULL_LEASE_ERRORS,
        view=without("owned", "running"),
    ),
    Function(
        "record_prediction",
        "service",
        "job_id uuid, lease_id uuid, prediction uuid, prediction_id text",
        args={**_LEASE_ARGS, "prediction": "$prediction", "prediction_id": "$text"},
        setup="prediction",
        right=None,
        null={**_NULL_LEASE_ERRORS, "prediction": _CONFLICT, "prediction_id": INVALID},
        wrong={"prediction_id": ({"id": "$text"}, None)},
    ),
    Function(
        "finish_prediction",
        "service",
        "job_id uuid, lease_id uuid, prediction uuid, state text, error text=, metrics jsonb=",
        args={
            **_LEASE_ARGS,
            "prediction": "$prediction",
            "state": "failed",
            "error": "no",
            "metrics": {"predict_time": 1.5},
        },
        setup="prediction",
        right=None,
        null={**_NULL_LEASE_ERRORS, "prediction": _CONFLICT, "state": INVALID},
        wrong={"state": (7, INVALID), "error": (_MAP, None), "metrics": ("fast", None)},
    ),
    Function(
        "receive_prediction",
        "service",
        "prediction uuid, prediction_id text, status text, progress integer=, message text=",
        args={
            "prediction": "$prediction",
            "prediction_id": "$text",
            "status": "processing",
            "progress": 40,
            "message": "generating",
        },
        setup="prediction",
        right={"outcome": "applied", "woken": 0},
        repeated={"outcome": "repeated", "woken": 0},
        null={
            "prediction": {"outcome": "ignored", "woken": 0},
            "prediction_id": INVALID,
            "status": INVALID,
        },
        wrong={
            "prediction_id": ({"id": "$text"}, {"outcome": "applied", "woken": 0}),
            "status": (7, INVALID),
            "progress": (101, INVALID),
            "message": (_MAP, {"outcome": "applied", "woken": 0}),
        },
    ),
    Function(
        "save_images",
        "service",
        "job_id uuid, lease_id uuid, images jsonb",
        args={
            **_LEASE_ARGS,
            "images": [
                {
                    "n": 1,
                    "path": "$ada/$generation/1.png",
                    "mime_type": "image/png",
                    "width": 8,
                    "height": 8,
                    "bytes": 70,
                }
            ],
        },
        setup="prediction",
        right=None,
        null={**_NULL_LEASE_ERRORS, "images": INVALID},
        wrong={"images": ("1.png", INVALID)},
    ),
]
