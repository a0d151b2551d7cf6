"""Cases of the functions that enqueue, read and change jobs."""

from tests.conformance.matrix.case import INVALID, NO_JOB, Function, our_error, select_items
from tests.conformance.matrix.setups import JOB_TYPE

_ITEM = {"job_type": JOB_TYPE, "queue": "$queue", "job_id": "$job"}
_CREATED = [{"job_id": "$job", "outcome": "created"}]
_EXISTING = [{"job_id": "$job", "outcome": "existing"}]
_ROW = {"id": "$job", "status": "pending", "queue": "$queue", "user_id": "$ada", "hold": None}
#: An object as the value of a text parameter; it is passed as JSON text.
_OBJECT = {"a": 1}

JOBS = [
    Function(
        "enqueue_job",
        "service",
        "job_type text, payload jsonb=, priority integer=, queue text=, "
        "scheduled_for timestamp with time zone=, max_attempts integer=, user_id uuid=, "
        "idempotency_key text=, job_id uuid=, options jsonb=",
        args={
            "job_type": JOB_TYPE,
            "payload": {"n": 1},
            "priority": 5,
            "queue": "$queue",
            "scheduled_for": "2099-01-01T00:00:00+00:00",
            "max_attempts": 2,
            "user_id": "$ada",
            "idempotency_key": "$key",
            "job_id": "$job",
            "options": {"tags": ["a"]},
        },
        right="$job",
        absent={"job_id": "<uuid>"},
        null={"job_type": INVALID},
        wrong={
            "job_type": (_OBJECT, INVALID),
            "payload": ([1], INVALID),
            "queue": (_OBJECT, INVALID),
            "idempotency_key": (_OBJECT, "$job"),
            "options": ("fast", INVALID),
        },
    ),
    Function(
        "enqueue_jobs",
        "service",
        "jobs jsonb, request_id uuid=",
        args={"jobs": [_ITEM]},
        right=_CREATED,
        repeated=_EXISTING,
        null={"jobs": INVALID},
        wrong={"jobs": ({"job_type": JOB_TYPE}, INVALID)},
    ),
    Function(
        "enqueue_batch",
        "service",
        "jobs jsonb, callback jsonb=, batch_id uuid=, metadata jsonb=, request_id uuid=",
        args={
            "jobs": [_ITEM],
            "callback": {"job_type": JOB_TYPE, "queue": "$queue"},
            "batch_id": "$batch",
            "metadata": {"a": 1},
        },
        right={"batch_id": "$batch", "jobs": _CREATED},
        repeated={"batch_id": "$batch", "jobs": _EXISTING},
        absent={"batch_id": {"batch_id": "<uuid>", "jobs": _CREATED}},
        null={"jobs": INVALID},
        wrong={"jobs": (7, INVALID), "callback": (7, INVALID), "metadata": ([1], INVALID)},
    ),
    Function(
        "get_batch",
        "service",
        "batch_id uuid",
        read_only=True,
        args={"batch_id": "$batch"},
        setup="batch",
        right={"id": "$batch", "total": 1, "open": 1, "completed": 0, "progress": 0},
        null={"batch_id": our_error("PQ_UNKNOWN_BATCH")},
    ),
    Function(
        "send_event",
        "service",
        "name text, payload jsonb=, event_id text=",
        args={"name": "$event", "payload": {"amount": 42}},
        setup="parked",
        right={"woken": 1},
        repeated={"woken": 0},
        null={"name": INVALID},
        wrong={
            "name": (_OBJECT, {"woken": 0}),
            "payload": ("paid", {"woken": 1}),
            "event_id": (7, {"woken": 1}),
        },
    ),
    Function(
        "get_job",
        "user",
        "job_id uuid",
        read_only=True,
        args={"job_id": "$job"},
        setup="pending",
        right=_ROW,
        foreign=NO_JOB,
        null={"job_id": NO_JOB},
    ),
    Function(
        "list_jobs",
        "user",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"queue": "$queue", "limit": 10}},
        setup="pending",
        right=[_ROW],
        foreign=[],
        # Without a filter, the answer has the newest jobs of the project.
        absent={"filter": ...},
        wrong={"filter": ([1], INVALID)},
        view=select_items("queue", "$queue"),
    ),
    Function(
        "job_position",
        "user",
        "job_id uuid",
        read_only=True,
        args={"job_id": "$job"},
        setup="pending",
        right={"position": 1, "at_least": False},
        foreign=NO_JOB,
        null={"job_id": NO_JOB},
    ),
    Function(
        "explain_jobs",
        "user",
        "job_ids uuid[]",
        read_only=True,
        args={"job_ids": ["$job"]},
        setup="pending",
        right=[{"job_id": "$job", "status": "pending", "hold": None, "until": None}],
        foreign=[{"job_id": "$job", "status": None, "reason": "unknown"}],
        null={"job_ids": INVALID},
    ),
    Function(
        "cancel_job",
        "user",
        "job_id uuid, request_id uuid=",
        args={"job_id": "$job"},
        setup="pending",
        right={"job_id": "$job", "status": "cancelled", "cancel_requested": True},
        foreign=NO_JOB,
        null={"job_id": NO_JOB},
    ),
    Function(
        "retry_job",
        "service",
        "job_id uuid, request_id uuid=",
        args={"job_id": "$job"},
        setup="failed",
        right={"job_id": "$job", "status": "pending"},
        null={"job_id": NO_JOB},
    ),
    Function(
        "get_job_history",
        "service",
        "job_id uuid",
        read_only=True,
        args={"job_id": "$job"},
        setup="failed",
        right={
            "timeline": [{"action": "enqueue"}, {"action": "claim"}, {"action": "fail"}],
            "attempts": [{"attempt": 1, "error": "Model 7 is out", "detail": "inner"}],
            "log": [],
        },
        null={"job_id": NO_JOB},
    ),
    Function(
        "change_jobs",
        "service",
        "action text, filter jsonb, preview boolean=, request_id uuid=",
        args={"action": "discard", "filter": {"queue": "$queue"}, "preview": False},
        setup="failed",
        right={"matched": 1, "changed": 1, "more": False},
        repeated={"matched": 0, "changed": 0, "more": False},
        null={"action": INVALID, "filter": INVALID},
        wrong={"action": (_OBJECT, INVALID), "filter": ("all", INVALID)},
    ),
    Function(
        "failure_reasons",
        "service",
        "filter jsonb=",
        read_only=True,
        args={"filter": {"queue": "$queue"}},
        setup="failed",
        right=[
            {
                "reason": "Model N is out",
                "count": 1,
                "job_types": [JOB_TYPE],
                "example_job_id": "$job",
            }
        ],
        wrong={"filter": ("all", INVALID)},
        # Without a filter, the answer has the failures of all tests.
        absent={"filter": ...},
    ),
]
