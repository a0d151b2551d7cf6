"""The rules of the model test that enqueue jobs, with every function and option."""

from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from .base_machine import (
    AGED,
    FAIR,
    LIMITED_KEYS,
    MAX_JOBS,
    PLAIN,
    QUIET,
    BaseMachine,
    any_job,
    any_limit,
    any_number,
)
from .engine import Refusal
from .model import Step

below_max_jobs = precondition(lambda self: len(self.order) < MAX_JOBS)


class EnqueueRules(BaseMachine):
    """Rules that enqueue jobs."""

    @initialize(
        limits=st.dictionaries(st.sampled_from(LIMITED_KEYS), any_limit, max_size=3),
        level=st.sampled_from(["none", "status"]),
        breaker=st.sampled_from([None, 2]),
        first_jobs=st.lists(any_job, min_size=2, max_size=8),
    )
    def begin(
        self,
        limits: dict[str, Any],
        level: str,
        breaker: int | None,
        first_jobs: list[dict[str, Any]],
    ) -> None:
        queues = {
            PLAIN: {},
            FAIR: {"fair_share": True},
            AGED: {"aging_seconds": 60},
            QUIET: {"events": level, "breaker_failures": breaker, "breaker_seconds": 20},
        }
        for name, changes in queues.items():
            self.engine.call("select set_queue($1, $2)", name, changes)
        self.model.event_levels = {QUIET: level}
        self.engine.call("select set_tenant('large', 3)")
        self.has_limits = bool(limits)
        for key, limit in limits.items():
            self.set_limit(key, limit)
        self.check_step(Step("begin"))
        self.enqueue_many(first_jobs)

    @below_max_jobs
    @rule(fields=any_job)
    def enqueue_one(self, fields: dict[str, Any]) -> None:
        item = self.record_item(fields)
        answer = self.enqueue("enqueue", [item])
        if not self.check_drain(answer, [item]):
            assert answer == [{"job_id": item["job_id"], "outcome": "created"}]

    @below_max_jobs
    @rule(jobs=st.lists(any_job, min_size=2, max_size=6))
    def enqueue_many(self, jobs: list[dict[str, Any]]) -> None:
        items = [self.record_item(job, bulk=True) for job in jobs]
        answer = self.enqueue("enqueue many", items)
        if not self.check_drain(answer, items):
            assert [item["outcome"] for item in answer] == ["created"] * len(items), answer

    @below_max_jobs
    @rule(fields=any_job, parents=st.lists(any_number, min_size=1, max_size=3),
          policy=st.sampled_from(["cancel", "fail", "run"]))  # fmt: skip
    def enqueue_child(self, fields: dict[str, Any], parents: list[int], policy: str) -> None:
        if not self.model.rows:
            return
        rows = {row.id: row for row in map(self.row, parents)}
        ends_at_once = policy != "run" and any(
            row.terminal and row.status != "completed" for row in rows.values()
        )
        # A job that ends at once keeps its open parents, in case it is retried.
        open_parents = {job: policy for job, row in rows.items() if not row.terminal}
        failed = {job: policy for job, row in rows.items() if row.status in ("failed", "cancelled")}
        options = {**fields.get("options", {}), "depends_on": [*rows], "on_parent_failure": policy}
        item = self.record_item(
            {**fields, "options": options},
            parents=open_parents,
            failed_parents=failed if open_parents or ends_at_once else {},
        )
        answer = self.enqueue("enqueue a child", [item])
        if not self.check_drain(answer, [item]):
            row = self.model.rows[item["job_id"]]
            end_status = {"cancel": "cancelled", "fail": "failed"}.get(policy)
            assert (row.status == end_status) == ends_at_once, row
            assert (row.hold == "waiting") == (bool(open_parents) and not ends_at_once), row

    @below_max_jobs
    @rule(fields=any_job, key=st.sampled_from(["x", "y"]))
    def enqueue_idempotent(self, fields: dict[str, Any], key: str) -> None:
        unique_key = (key, fields["job_type"], fields.get("user_id"))
        existing = [
            job for job in self.model.rows if self.model.facts[job].idempotency == unique_key
        ]
        item = self.record_item({**fields, "idempotency_key": key}, idempotency=unique_key)
        inserted = frozenset() if existing else frozenset([item["job_id"]])
        answer = self.enqueue("enqueue with an idempotency key", [item], inserted=inserted)
        if existing:  # The job is found even if its queue or the requested queue drains.
            assert answer == [{"job_id": existing[0], "outcome": "existing"}]
        elif not self.check_drain(answer, [item]):
            assert answer == [{"job_id": item["job_id"], "outcome": "created"}]

    @below_max_jobs
    @rule(
        fields=any_job,
        u=st.integers(0, 1),
        conflict=st.sampled_from(["ignore", "replace", "debounce"]),
        states=st.sampled_from(
            [
                None,
                ["pending"],
                ["pending", "processing", "completed"],
                ["pending", "processing", "failed"],
            ]
        ),
        period=st.sampled_from([None, 30]),
    )
    def enqueue_unique(
        self, fields: dict[str, Any], u: int, conflict: str, states: Any, period: Any
    ) -> None:
        unique_key = (fields["job_type"], fields.get("user_id"), u)
        existing = [job for job in self.model.rows if self.prevents_creation(job, unique_key)]
        unique = {"by": ["u"], "on_conflict": conflict}
        unique |= {"states": states} if states else {}
        unique |= {"period_seconds": period} if period else {}
        options = {**fields.get("options", {}), "unique": unique}
        item = self.record_item(
            {**fields, "payload": {"u": u, "n": len(self.order)}, "options": options},
            unique=unique_key,
            unique_states=frozenset(states or ["pending", "processing"]),
            unique_until=self.model.now + 0.001 + period if period else float("inf"),
        )
        assert len(existing) <= 1, existing
        if not existing:
            answer = self.enqueue("enqueue unique", [item])
            expected = "created"
        else:
            row = self.model.rows[existing[0]]
            refused = conflict == "replace" and row.status == "processing"
            expected = "existing"
            if conflict != "ignore" and row.status == "pending":
                expected = {"replace": "replaced", "debounce": "debounced"}[conflict]
            actions = {"delay", "promote", "unblock"} if expected != "existing" else ()
            answer = self.enqueue(
                "enqueue unique", [item], inserted=frozenset(),
                target_actions={row.id: frozenset(actions)},
            )  # fmt: skip
            if refused and not self.has_draining_queue([item]):
                assert answer.code == "PQ_RUNNING_JOB", answer
                return
            if expected != "existing" and not isinstance(answer, Refusal):
                self.model.facts[row.id].unique_until = self.model.facts[
                    item["job_id"]
                ].unique_until
                assert self.model.rows[row.id].payload == item["payload"]
        if not self.check_drain(answer, [item]):
            job = existing[0] if existing else item["job_id"]
            assert answer == [{"job_id": job, "outcome": expected}]

    def prevents_creation(self, job: str, unique_key: tuple[Any, ...]) -> bool:
        """Return True if a job prevents the creation of another job with this unique key."""
        facts, row = self.model.facts[job], self.model.rows[job]
        if facts.unique != unique_key or facts.unique_until <= self.model.now + 0.001:
            return False
        started = bool(facts.leases) and "processing" not in facts.unique_states
        return not started and row.status in facts.unique_states

    @below_max_jobs
    @rule(jobs=st.lists(any_job, min_size=1, max_size=4), callback=st.booleans())
    def enqueue_batch(self, jobs: list[dict[str, Any]], callback: bool) -> None:
        items = [self.record_item(job, bulk=len(jobs) > 1) for job in jobs]
        batch = str(UUID(int=0x2000000 + len(self.batches)))
        self.batches.append(batch)
        self.model.batches[batch] = None
        answer = self.call(
            Step("enqueue a batch", inserted=frozenset(item["job_id"] for item in items)),
            "select enqueue_batch($1, $2, $3)",
            items,
            {"job_type": "c", "queue": PLAIN} if callback else None,
            UUID(batch),
            refusable=True,
        )
        if not self.check_drain(answer, items):
            assert answer["batch_id"] == batch
