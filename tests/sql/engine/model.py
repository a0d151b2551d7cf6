"""The model that checks every call: it compares the rows before and after the call.

It records facts that the rows do not show: the leases of each job, the parents that a job waits
for, and the times at which the jobs of a limit key started.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .engine import JobRow

TERMINAL = ("completed", "failed", "cancelled")

# The permitted state transitions: action -> {from: (to, change of attempt)}. They are a second
# specification, written independently of the table `state_transition`.
READY, SCHEDULED, BLOCKED, WAITING = (
    ("pending", hold) for hold in (None, "scheduled", "blocked", "waiting")
)
RUNNING, PARKED = ("processing", None), ("processing", "parked")
COMPLETED, FAILED, CANCELLED = ((status, None) for status in TERMINAL)
PENDING = (READY, SCHEDULED, BLOCKED, WAITING)
TRANSITIONS: dict[str, dict[tuple[str, str | None], tuple[tuple[str, str | None], int]]] = {
    "claim": {READY: (RUNNING, 1)},
    "complete": {RUNNING: (COMPLETED, 0)},
    "fail": {RUNNING: (FAILED, 0)},
    "back_off": {RUNNING: (SCHEDULED, 0)},
    "expire": {RUNNING: (READY, 0)},
    "snooze": {RUNNING: (SCHEDULED, -1)},
    "release": {RUNNING: (READY, -1)},
    "park": {RUNNING: (PARKED, 0)},
    "wake": {PARKED: (READY, -1)},
    "promote": {SCHEDULED: (READY, 0)},
    "delay": {READY: (SCHEDULED, 0), SCHEDULED: (SCHEDULED, 0), BLOCKED: (SCHEDULED, 0)},
    "block": {READY: (BLOCKED, 0)},
    "unblock": {BLOCKED: (READY, 0)},
    "ready": {WAITING: (READY, 0)},
    "await": {WAITING: (SCHEDULED, 0)},
    "wait": {READY: (WAITING, 0)},
    "abandon": dict.fromkeys(PENDING, (FAILED, 0)),
    "cancel": dict.fromkeys((*PENDING, RUNNING), (CANCELLED, 0)),
    "retry": {FAILED: (READY, 0), CANCELLED: (READY, 0)},
    "progress": {RUNNING: (RUNNING, 0)},
}

# The actions that a call may apply to jobs which it does not name.
FOLLOW_UPS = frozenset({"cancel", "abandon", "ready", "await"})
MAINTENANCE = FOLLOW_UPS | {"promote", "wake", "expire", "fail", "unblock"}
CLAIM = frozenset({"claim", "block", "unblock"})

MAX_ACTIONS = 12  # of one job in one call


@dataclass
class Facts:
    """Facts about a job that its row does not show."""

    parents: dict[str, str] = field(default_factory=dict)  # unfinished parent -> on_parent_failure
    # Parents that failed or were cancelled; a retry of the job waits for them again.
    failed_parents: dict[str, str] = field(default_factory=dict)
    leases: list[str] = field(default_factory=list)  # every lease of the job, oldest first
    unique: tuple[Any, ...] | None = None  # job type, owner and the unique value of the payload
    unique_states: frozenset[str] = frozenset()  # the states in which the job is unique
    unique_until: float = float("inf")  # the end of the period in which the job is unique
    idempotency: tuple[Any, ...] | None = None  # idempotency key, job type and owner
    bulk: bool = False  # a bulk enqueue sends no event for the job


class Limit(NamedTuple):
    """The limit of a key; the database counts the starts of its jobs from time `since` on."""

    max_running: int | None
    rate: int | None
    period: float | None
    since: float


class Start(NamedTuple):
    """The start of a job, and the limit keys it counts for."""

    at: float
    keys: frozenset[str]


@dataclass
class Step:
    """A call and the changes that it may make.

    Attributes:
        name: The call, for the messages of failed assertions.
        target_actions: The permitted actions of each job that the call names.
        other_actions: The permitted actions of all other jobs.
        inserted: The jobs that the call must insert.
        deleted: The jobs that the call may delete.
        claimed: The lease of each job that the call claimed.
        throttled: The jobs whose progress events may be dropped.
    """

    name: str
    target_actions: dict[str, frozenset[str]] = field(default_factory=dict)
    other_actions: frozenset[str] = FOLLOW_UPS
    inserted: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    claimed: dict[str, str] = field(default_factory=dict)
    throttled: frozenset[str] = frozenset()


class Model:
    """The expected state of the database, checked and updated after every step."""

    def __init__(self) -> None:
        self.rows: dict[str, JobRow] = {}
        self.facts: dict[str, Facts] = {}
        self.last_event: dict[str, dict[str, Any]] = {}
        self.event_levels: dict[str, str] = {}  # queue -> none, status or progress (the default)
        self.limits: dict[str, Limit] = {}
        self.uncounted: Limit | None = None  # a new limit; running jobs are not counted for it yet
        self.paused_keys: dict[str, float] = {}  # key -> the end of its pause
        self.paused_queues: dict[str, float] = {}  # queue -> the end of its pause
        self.starts: list[Start] = []
        self.batches: dict[str, str | None] = {}  # batch -> its callback job, None until enqueued
        self.incomplete_batches: set[str] = set()  # some of their jobs were deleted
        # How long the database keeps finished jobs by default: seven days, failed jobs 30 days.
        self.keep_seconds = {"completed": 604800.0, "cancelled": 604800.0, "failed": 2592000.0}
        self.now = 0.0

    # Queries -----------------------------------------------------------------------------------

    def is_leased(self, job: str, lease: str) -> bool:
        """Return True if the job runs under this lease."""
        row = self.rows.get(job)
        return row is not None and row.running and row.lease_id == lease

    def is_overdue(self, job: str) -> bool:
        """Return True if the lease of a running job has expired."""
        return (self.rows[job].lease_expires_at or 0) <= self.now

    def limit_of(self, key: str) -> Limit | None:
        """Return the limit of a key, or the limit of its kind such as ``user:*``."""
        return self.limits.get(key) or self.limits.get(key.split(":")[0] + ":*")

    def count_running(self, key: str) -> int:
        return sum(1 for row in self.rows.values() if row.running and key in row.keys)

    def count_started(self, key: str, period: float, since: float) -> int:
        """Count the starts of a key within the last period and after `since`."""
        since = max(self.now - period, since)
        return sum(1 for start in self.starts if start.at > since and key in start.keys)

    def has_no_capacity(self, key: str) -> bool:
        """Return True if the key is paused or its limit may be reached.

        All starts are counted, because the database may count starts before the limit was set.
        """
        if self.paused_keys.get(key, 0) > self.now:
            return True
        limit = self.limit_of(key)
        if limit is None:
            return False
        return (limit.max_running is not None and self.count_running(key) >= limit.max_running) or (
            limit.rate is not None and self.count_started(key, limit.period or 0, 0) >= limit.rate
        )

    # The check after each step -----------------------------------------------------------------

    def observe(self, step: Step, state: dict[str, Any]) -> None:
        """Check that the step permits every change, then store the new rows."""
        before, after = self.rows, state["jobs"]
        self._check_presence(step, before, after)
        for job, row in after.items():
            old = before.get(job)
            if row is not old and row != old:
                self._check_row(row)
                if old is None:
                    self._check_new(step, row)
                else:
                    self._check_change(step, old, row)
        self.rows = after
        self._check_parents(before)
        self._check_claims(step)
        self._check_events(step, before, state["events"])
        self._check_counters(state)
        self._check_batches(state["batches"])

    def _check_presence(
        self, step: Step, before: dict[str, JobRow], after: dict[str, JobRow]
    ) -> None:
        for job in after.keys() - before.keys() - step.inserted:
            batch = after[job].payload.get("batch_id")
            assert batch in self.batches and self.batches[batch] is None, (
                f"{step.name} inserted a job that is neither requested nor a callback: {after[job]}"
            )
            self.batches[batch] = job
            self.facts[job] = Facts()
        for job in before.keys() - after.keys():
            row = before[job]
            is_pruned = (
                row.finished_at is not None
                and row.finished_at <= self.now - self.keep_seconds[row.status]
                and step.other_actions == MAINTENANCE
            )
            assert is_pruned or job in step.deleted, f"{step.name} deleted {row}"
            if row.batch_id:
                self.incomplete_batches.add(row.batch_id)
        missing = step.inserted - after.keys()
        assert not missing, f"{step.name} did not insert {missing}"

    def _check_row(self, row: JobRow) -> None:
        assert 0 <= row.attempt <= row.max_attempts, row
        assert row.updated_at <= self.now + 1e-3, row
        if row.hold == "blocked":
            assert row.blocked_on in row.keys, row

    def _check_new(self, step: Step, row: JobRow) -> None:
        if row.id in step.inserted:
            assert row.attempt == 0 and not row.running, row
        if row.state == READY:
            assert (row.scheduled_for or 0) <= self.now, row
        for parent in self.facts[row.id].parents:
            assert row.hold == "waiting" or row.terminal, (row, parent)

    def _check_change(self, step: Step, old: JobRow, new: JobRow) -> None:
        allowed = step.target_actions.get(new.id)
        if allowed is None:
            allowed = step.other_actions
            if step.other_actions == FOLLOW_UPS and old.state != WAITING:
                allowed = frozenset()
        count = new.version - old.version  # each action adds one to the version
        assert count >= 0, f"{step.name} decreased the version: {old} {new}"
        if count == 0:
            assert (old.state, old.attempt, old.progress, old.message, old.error, old.result) == (
                new.state, new.attempt, new.progress, new.message, new.error, new.result
            ), f"{step.name} changed a job but not its version: {old} {new}"  # fmt: skip
        else:
            assert is_reachable(old, new, allowed, count), (
                f"{step.name} may do {sorted(allowed)} to {old}, which do not lead to {new}"
            )
        if old.terminal and not new.terminal:
            assert "retry" in allowed, f"{step.name} made a finished job unfinished: {old}"
        if new.id not in step.target_actions and count:
            self._check_reason(step, old, new)

    def _check_reason(self, step: Step, old: JobRow, new: JobRow) -> None:
        """Check that a job which the call did not name changed because of the time or a parent."""
        expired = old.expires_at is not None and old.expires_at <= self.now
        if old.running:
            assert old.lease_expires_at is not None
            assert old.lease_expires_at <= self.now, f"{step.name} ended a valid lease: {old}"
        elif old.hold in ("scheduled", "parked"):
            assert old.scheduled_for is not None
            assert old.scheduled_for <= self.now or expired, (
                f"{step.name} ignored scheduled_for: {old} {new}"
            )
        elif old.hold == "waiting" and (new.state == READY or new.running):
            assert (old.scheduled_for or 0) <= self.now, (
                f"{step.name} ignored scheduled_for: {old} {new}"
            )
        if old.status == "pending" and old.hold != "waiting" and new.status == "failed":
            assert expired, f"{step.name} abandoned {old} before expires_at"
        if old.hold != "waiting" and new.status == "cancelled":
            assert old.cancel_requested_at is not None, (
                f"{step.name} cancelled {old} without a request"
            )

    def _check_parents(self, before: dict[str, JobRow]) -> None:
        ended = {
            job
            for job, row in self.rows.items()
            if row.terminal and not (job in before and before[job].terminal)
        }
        for job, row in self.rows.items():
            parents, failed_parents = self.facts[job].parents, self.facts[job].failed_parents
            if job in before and before[job].terminal and not row.terminal:
                self._restore_parents(self.facts[job])
            if not parents:
                continue
            must_end = False
            for parent in ended & parents.keys():
                policy = parents.pop(parent)
                if self.rows[parent].status != "completed":
                    failed_parents[parent] = policy
                if self.rows[parent].status != "completed" and policy != "run":
                    must_end = True
                    status = "cancelled" if policy == "cancel" else "failed"
                    assert row.terminal, f"{row} must be {status}, as {self.rows[parent]} ended"
            if row.hold == "waiting":
                assert not must_end and parents, f"{row} waits without an unfinished parent"
            elif not row.terminal:  # a finished job keeps its parents: a retry waits for them again
                assert not parents, f"{row} did not wait for {parents}"

    def _restore_parents(self, facts: Facts) -> None:
        """Make a retried job wait again for the parents that have not finished."""
        for parent, policy in facts.failed_parents.items():
            if parent in self.rows and not self.rows[parent].terminal:
                facts.parents[parent] = policy
        facts.failed_parents.clear()

    def _check_claims(self, step: Step) -> None:
        for job, lease in step.claimed.items():
            row, facts = self.rows[job], self.facts[job]
            assert row.running and row.lease_id == lease, row
            assert row.lease_expires_at is not None and row.lease_expires_at > self.now, row
            assert row.expires_at is None or row.expires_at > self.now, (
                f"claimed after expiry: {row}"
            )
            assert self.paused_queues.get(row.queue, 0) <= self.now, f"the queue is paused: {row}"
            for key in row.keys:
                assert self.paused_keys.get(key, 0) <= self.now, f"{key} is paused: {row}"
            facts.leases.append(lease)
            self.starts.append(Start(self.now, frozenset(row.keys)))
        for job, row in self.rows.items():
            if row.running:
                assert row.lease_id == self.facts[job].leases[-1], f"no claim returned {row}"
        for key in {key for job in step.claimed for key in self.rows[job].keys}:
            limit = self.limit_of(key)
            if limit is None:
                continue
            if limit.max_running is not None:
                running = self.count_running(key)
                assert running <= limit.max_running, f"{running} jobs run under {key} {limit}"
            if limit.rate is not None:
                started = self.count_started(key, limit.period or 0, limit.since)
                assert started <= limit.rate, f"{started} jobs started under {key} {limit}"

    def _check_events(
        self, step: Step, before: dict[str, JobRow], sent: list[tuple[str, dict[str, Any]]]
    ) -> None:
        events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for topic, payload in sent:
            if topic.startswith("pq:queue:"):
                continue
            job = payload["job_id"]
            owner = self.rows[job].user_id
            assert topic == (f"pq:user:{owner}" if owner else f"pq:job:{job}"), (topic, payload)
            events[job].append(payload)
        for job, row in self.rows.items():
            old = before.get(job)
            if old is not None and old.version == row.version:
                assert job not in events, f"{step.name} sent an event of an unchanged job: {row}"
                continue
            versions = sorted(event["version"] for event in events[job])
            first = old.version + 1 if old else 1 + self.facts[job].bulk
            expected = list(range(first, row.version + 1))
            level = self.event_levels.get(row.queue, "progress")
            if level == "none" or (job in step.throttled and (not versions or level == "status")):
                expected = []
            assert versions == expected, (
                f"{step.name} sent events of the versions {versions}, not {expected}, of {row}"
            )
            for event in events[job]:
                if event["version"] == row.version:
                    self._check_event(event, row)
                    self.last_event[job] = event

    @staticmethod
    def _check_event(event: dict[str, Any], row: JobRow) -> None:
        sent = tuple(
            event.get(name)
            for name in ("status", "hold", "attempt", "progress", "message", "error", "queue",
                         "job_type")
        )  # fmt: skip
        assert sent == (
            row.status, row.hold, row.attempt, row.progress,
            row.message, row.error, row.queue, row.job_type,
        ), f"{event} does not match {row}"  # fmt: skip

    def _check_counters(self, state: dict[str, Any]) -> None:
        assert state["wrong_depth"] is None, state["wrong_depth"]
        assert state["failed"] == [], state["failed"]
        counted: dict[str, int] = defaultdict(int)
        for row in self.rows.values():
            if row.running:
                slots = set(row.slots or ())
                limits = {key: limit for key in row.keys if (limit := self.limit_of(key))}
                limited = {
                    key for key, limit in limits.items()
                    if limit.max_running and limit is not self.uncounted
                }  # fmt: skip
                assert limited <= slots <= row.keys, f"{row} has the slots {slots}, not {limited}"
                for key in slots:
                    counted[key] += 1
        assert {key: n for key, n in state["running"].items() if n} == counted
        for child, parent in state["waits"]:
            assert not self.rows[parent].terminal or self.rows[child].terminal, (
                f"{self.rows[child]} still depends on {self.rows[parent]}, which has ended"
            )

    def _check_batches(self, batches: list[dict[str, Any]]) -> None:
        for batch in batches:
            if batch["id"] in self.incomplete_batches:
                continue
            states = [row.status for row in self.rows.values() if row.batch_id == batch["id"]]
            counted = [batch["total"], *(batch[status] for status in TERMINAL)]
            assert counted == [len(states), *(states.count(status) for status in TERMINAL)], batch
            ended = all(status in TERMINAL for status in states)
            assert (batch["finished_at"] is not None) == ended, batch
            if ended and batch["callback"]:
                assert batch["callback_job_id"] is not None, batch
            assert batch["callback_job_id"] == self.batches.get(batch["id"]), batch


def is_reachable(old: JobRow, new: JobRow, allowed: Iterable[str], count: int) -> bool:
    """Return True if `count` of the allowed actions lead to the new state and attempt number."""
    assert count <= MAX_ACTIONS, (old, new)
    reached = {(old.state, old.attempt)}
    for _ in range(count):
        reached = {
            (TRANSITIONS[action][state][0], attempt + TRANSITIONS[action][state][1])
            for state, attempt in reached
            for action in allowed
            if state in TRANSITIONS[action]
        }
    return (new.state, new.attempt) in reached
