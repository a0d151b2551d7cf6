"""The base of the model tests: inputs, and calls that several rules share."""

import sys
from itertools import count
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from .engine import Engine, JobRow, Refusal
from .model import Facts, Limit, Model, Step

START = 1_900_000_000.0  # The start of the clock, in seconds since the epoch.
MAX_JOBS = 40

PLAIN, FAIR, AGED, QUIET = "plain", "fair", "aged", "quiet"
QUEUES = [PLAIN, FAIR, AGED, QUIET]
TYPES = ["a", "b", "c"]
USERS = [None, str(UUID(int=1)), str(UUID(int=2))]
TENANTS = [None, "small", "large"]
KEYS = ["k:1", "k:2", "m:1"]
LIMITED_KEYS = [
    "global",
    "queue:plain",
    "type:b",
    "user:*",
    f"user:{USERS[1]}",
    "k:*",
    "k:1",
    "m:1",
]
WORKERS = range(4)
EVENTS = [None, "paid", "seen"]

any_worker = st.sampled_from(WORKERS)
any_number = st.integers(0, 30)
any_queue = st.sampled_from(QUEUES)
any_limit = st.one_of(
    st.builds(lambda n: {"max_running": n}, st.integers(1, 3)),
    st.builds(
        lambda n, seconds: {"rate": n, "period_seconds": seconds},
        st.integers(1, 3),
        st.sampled_from([10, 60]),
    ),
    st.just({"max_running": 2, "rate": 2, "period_seconds": 30}),
)
any_job = st.fixed_dictionaries(
    {"queue": any_queue, "job_type": st.sampled_from(TYPES)},
    optional={
        "priority": st.integers(-1, 2),
        "max_attempts": st.integers(1, 3),
        "user_id": st.sampled_from(USERS),
        "options": st.fixed_dictionaries(
            {},
            optional={
                "delay_seconds": st.sampled_from([0, 5, 60]),
                "expires_in_seconds": st.sampled_from([2, 30, 600]),
                "timeout_seconds": st.sampled_from([1, 40]),
                "tenant": st.sampled_from(TENANTS),
                "limit_keys": st.lists(st.sampled_from(KEYS), max_size=2, unique=True),
                "backoff": st.sampled_from(
                    [
                        {"policy": "constant", "base_seconds": 1, "jitter": 0},
                        {"policy": "linear", "base_seconds": 5, "cap_seconds": 8},
                    ]
                ),
            },
        ),
    },
)
any_outcome = st.one_of(
    st.just({"outcome": "completed", "result": {"ok": True}}),
    st.builds(
        lambda fields: {"outcome": "failed", "error": "boom", **fields},
        st.sampled_from([{}, {"retryable": False}, {"delay_seconds": 7}, {"error": "other 12"}]),
    ),
    st.builds(
        lambda fields: {"outcome": "snoozed", **fields},
        st.sampled_from([{"delay_seconds": 0}, {"delay_seconds": 20}]),
    ),
    st.just({"outcome": "released"}),
    st.builds(
        lambda event, delay: {"outcome": "parked", "event": event, "delay_seconds": delay},
        st.sampled_from(EVENTS),
        st.sampled_from([3, 300]),
    ),
    st.just({"outcome": "cancelled"}),
)


class BaseMachine(RuleBasedStateMachine):
    """A state machine whose rules call the database; the model checks every call."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.example = self.engine.example()
        self.example.__enter__()
        self.engine.now = START
        self.model = Model()
        self.model.now = START
        self.ids = (str(UUID(int=0x1000000 + n)) for n in count())
        self.order: list[str] = []  # the ids of all jobs, in order of creation
        # worker -> (job, lease) for each of the last 12 jobs that it claimed
        self.leases: dict[int, list[tuple[str, str]]] = {worker: [] for worker in WORKERS}
        # worker -> the lease and the jobs of its last claim
        self.last_claims: dict[int, tuple[str, list[str]]] = {}
        self.batches: list[str] = []
        self.has_limits = False
        self.draining_queues: set[str] = set()

    def advance_clock(self, seconds: float = 0.001) -> None:
        """Advance the clock, so that no two calls have the same time."""
        self.engine.now = self.model.now = round(self.engine.now + seconds, 3)

    def call(self, step: Step, sql: str, *args: Any, refusable: bool = False) -> Any:
        """Call a function at a new time, and check the changes that it made."""
        self.advance_clock()
        call = self.engine.try_call if refusable else self.engine.call
        answer = call(sql, *args)
        if isinstance(answer, Refusal):
            for job in step.inserted:
                self.model.facts.pop(job)
            step = Step(step.name, other_actions=frozenset())
        self.check_step(step)
        return answer

    def check_step(self, step: Step) -> None:
        """Read the state of the database and check the changes of the step."""
        state = self.engine.read_state()
        self.model.paused_queues = state["paused"]
        self.order += [job for job in state["jobs"] if job not in self.model.rows]
        self.model.observe(step, state)

    def row(self, n: int) -> JobRow:
        """Choose a job by any number."""
        rows = [self.model.rows[job] for job in self.order if job in self.model.rows]
        return rows[n % len(rows)]

    # Choices of jobs and leases ----------------------------------------------------------------

    def choose_lease(self, n: int, stale: bool) -> tuple[int, str, str]:
        """Choose a worker, a job and a lease of that job.

        Args:
            n: Selects one of the leases that qualify.
            stale: False for a valid lease. True for a lease that has ended, preferably a lease
                whose job another worker runs now.

        Returns:
            The number of the worker and the ids of job and lease. If no lease qualifies even after
            a claim, both ids are invented.
        """
        for _ in range(2):
            leases = [
                (worker_n, job, lease)
                for worker_n, claimed in self.leases.items()
                for job, lease in claimed
            ]
            valid = [lease for lease in leases if self.model.is_leased(*lease[1:])]
            ended = [lease for lease in leases if lease not in valid]
            running_jobs = {job for _, job, _ in valid}
            if stale and ended:
                ended = [lease for lease in ended if lease[1] in running_jobs] or ended
                return ended[n % len(ended)]
            if valid:
                return valid[n % len(valid)]
            self.claim(n % len(WORKERS), 3, QUEUES, TYPES, 30, False)
        return 0, str(UUID(int=1)), str(UUID(int=2))

    def claim(
        self, worker_n: int, max_jobs: int, queues: Any, types: Any, lease: float, weighted: bool
    ) -> None:
        raise NotImplementedError

    def maintain(self) -> None:
        raise NotImplementedError

    def permit_unblocking(self) -> dict[str, frozenset[str]]:
        """Return `target_actions` that permit a call to unblock each blocked job."""
        return {
            row.id: frozenset({"unblock"})
            for row in self.model.rows.values()
            if row.hold == "blocked"
        }

    def set_limit(self, key: str, limit: dict[str, Any]) -> None:
        old = self.model.limits.get(key)
        new = Limit(limit.get("max_running"), limit.get("rate"), limit.get("period_seconds"),
                    self.model.now + 0.001)  # fmt: skip
        # The database counts starts only from the time at which the key first had a rate.
        if old and old.rate and new.rate:
            new = new._replace(since=old.since)
        self.model.limits[key] = self.model.uncounted = new
        self.call(
            Step("set_limit", target_actions=self.permit_unblocking()),
            "select set_limit($1, $2, $3, $4)", key, new.max_running, new.rate, new.period,
        )  # fmt: skip
        self.model.uncounted = None
        self.maintain()  # Maintenance counts the jobs that already run.

    def record_item(self, fields: dict[str, Any], **facts: Any) -> dict[str, Any]:
        """Return a job for enqueue_jobs, and record its facts for the model."""
        job = next(self.ids)
        self.model.facts[job] = Facts(**facts)
        return {**fields, "job_id": job}

    def enqueue(self, name: str, items: list[dict[str, Any]], **step_fields: Any) -> Any:
        """Enqueue jobs; by default, the call must insert all of them."""
        step_fields.setdefault("inserted", frozenset(item["job_id"] for item in items))
        return self.call(
            Step(name, **step_fields), "select enqueue_jobs($1)", items, refusable=True
        )

    def has_draining_queue(self, items: list[dict[str, Any]]) -> bool:
        return any(item["queue"] in self.draining_queues for item in items)

    def check_drain(self, answer: Any, items: list[dict[str, Any]]) -> bool:
        """Check that the call was refused if and only if a queue drains.

        Returns:
            True if the call was refused.
        """
        is_draining = self.has_draining_queue(items)
        refused = isinstance(answer, Refusal) and answer.code == "PQ_QUEUE_DRAINING"
        assert is_draining == refused, answer
        return refused

    def record_claim(
        self, worker_n: int, answer: list[dict[str, Any]], lease: str
    ) -> dict[str, str]:
        claimed = {job["id"]: lease for job in answer}
        assert len(claimed) == len(answer), "one claim returned a job twice"
        self.leases[worker_n] = [*self.leases[worker_n], *claimed.items()][-12:]
        self.last_claims[worker_n] = (lease, [*claimed])
        return claimed

    def expected_answer(
        self, job: str, lease: str, outcome: dict[str, Any]
    ) -> tuple[str, str | None]:
        """Return the expected answer to a report, and the action that it applies to the job."""
        row = self.model.rows.get(job)
        if row is None or row.lease_id != lease:
            return "stale", None
        if not row.running:
            return "repeated", None
        kind = outcome["outcome"]
        if kind == "completed":
            return "ok", "complete"
        # A job that was cancelled while it was parked is claimed once more, to undo its work.
        is_undo = row.cancel_requested_at is not None and row.cancel_requested_at < (
            row.started_at or 0
        )
        if kind == "released" and is_undo:
            return "ok", "release"
        if kind == "cancelled" or row.cancel_requested_at is not None:
            return "ok", "cancel"
        if kind == "failed":
            is_retried = outcome.get("retryable", True) and row.attempt < row.max_attempts
            return "ok", "back_off" if is_retried else "fail"
        return "ok", {"snoozed": "snooze", "released": "release", "parked": "park"}[kind]

    # Teardown: check that every job can end ----------------------------------------------------

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.complete_all()
                for row in self.model.rows.values():
                    assert row.terminal or self.is_paused(row), f"{row} never ends"
                self.resume_all()
                self.complete_all()
                for row in self.model.rows.values():
                    assert row.terminal, f"{row} never ends"
                self.check_latest_events()
        finally:
            self.example.__exit__(None, None, None)

    def unfinished(self) -> list[JobRow]:
        return [row for row in self.model.rows.values() if not row.terminal]

    def is_paused(self, row: JobRow) -> bool:
        """Return True if the job or one of its parents cannot start because of a pause."""
        return (
            self.model.paused_queues.get(row.queue, 0) > self.model.now
            or any(self.model.paused_keys.get(key, 0) > self.model.now for key in row.keys)
            or any(self.is_paused(self.model.rows[job]) for job in self.model.facts[row.id].parents)
        )

    def resume_all(self) -> None:
        for name in QUEUES:
            self.call(Step("resume_queue"), "select resume_queue($1)", name)
        for key in KEYS:
            self.call(
                Step("resume_key", target_actions=self.permit_unblocking()),
                "select resume_key($1)",
                key,
            )
            self.model.paused_keys.pop(key, None)

    def complete_all(self) -> None:
        """Claim and complete jobs and advance the clock until only paused jobs are unfinished."""
        wait_seconds, idle_rounds = 1.0, 0
        while idle_rounds < 8 and any(not self.is_paused(row) for row in self.unfinished()):
            if idle_rounds:
                self.maintain()
            before = len(self.unfinished())
            self.claim(0, 20, QUEUES, TYPES, 30, False)
            lease, claimed = self.last_claims[0]
            if claimed:
                self.call(
                    Step(
                        "complete", target_actions=dict.fromkeys(claimed, frozenset({"complete"}))
                    ),
                    "select report_jobs($1)",
                    [{"job_id": j, "lease_id": lease, "outcome": "completed"} for j in claimed],
                )
            if len(self.unfinished()) < before:
                wait_seconds, idle_rounds = 1.0, 0
            else:
                self.advance_clock(wait_seconds)
                wait_seconds, idle_rounds = wait_seconds * 6, idle_rounds + 1

    def check_latest_events(self) -> None:
        for job, event in self.model.last_event.items():
            row = self.model.rows.get(job)
            # A duplicate may have replaced the job in a queue without events.
            if row is not None and self.model.event_levels.get(row.queue) != "none":
                assert (event["status"], event["hold"], event["version"]) == (
                    row.status, row.hold, row.version
                )  # fmt: skip
