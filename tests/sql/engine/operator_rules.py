"""The rules of the model test that make calls of users and operators."""

from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from .base_machine import KEYS, LIMITED_KEYS, TENANTS, BaseMachine, any_limit, any_number, any_queue
from .engine import Refusal
from .model import MAINTENANCE, Step


class OperatorRules(BaseMachine):
    """Rules that cancel, retry, pause, limit and maintain."""

    @precondition(lambda self: self.model.rows)
    @rule(n=any_number)
    def cancel(self, n: int) -> None:
        row = self.row(n)
        answer = self.call(
            Step("cancel", target_actions={row.id: frozenset({"cancel", "wake"})}),
            "select cancel_job($1)", UUID(row.id), refusable=True,
        )  # fmt: skip
        if row.status in ("completed", "failed"):
            assert answer.code == "PQ_FINISHED_JOB", answer
        else:
            new = self.model.rows[row.id]
            assert new.status == "cancelled" or new.cancel_requested_at is not None
            assert row.status != "pending" or row.cancel_requested_at or (
                new.status == "cancelled"
            )  # fmt: skip

    @precondition(lambda self: self.model.rows)
    @rule(n=any_number)
    def retry(self, n: int) -> None:
        row = self.row(n)
        has_failed_parent = any(
            parent in self.model.rows
            and self.model.rows[parent].status in ("failed", "cancelled")
            and policy != "run"
            for parent, policy in self.model.facts[row.id].failed_parents.items()
        )
        answer = self.call(
            Step("retry", target_actions={row.id: frozenset({"retry", "wait"})}),
            "select retry_job($1)", UUID(row.id), refusable=True,
        )  # fmt: skip
        facts = self.model.facts[row.id]
        if row.status == "completed":
            assert answer.code == "PQ_FINISHED_JOB", answer
        elif row.status == "processing":
            assert answer.code == "PQ_RUNNING_JOB", answer
        elif isinstance(answer, Refusal):
            assert answer.code == "PQ_CONFLICT", answer
            assert has_failed_parent or any(
                facts.unique and self.prevents_creation(job, facts.unique)
                for job in self.model.rows
                if job != row.id
            ), answer
        else:
            assert answer["status"] == "pending", answer
            assert row.status == "pending" or not has_failed_parent, answer

    @rule(name=st.sampled_from(["paid", "seen"]), payload=st.sampled_from([None, {"n": 1}]))
    def send_event(self, name: str, payload: Any) -> None:
        parked = {
            r.id for r in self.model.rows.values() if r.parked_on == name and r.hold == "parked"
        }
        answer = self.call(
            Step("send_event", target_actions=dict.fromkeys(parked, frozenset({"wake"}))),
            "select send_event($1, $2)", name, payload,
        )  # fmt: skip
        assert answer == {"woken": len(parked)}
        for job in parked:
            assert self.model.rows[job].event == payload

    @rule(action=st.sampled_from(["retry", "cancel", "discard"]), name=any_queue,
          status=st.sampled_from(["pending", "processing", "failed", "cancelled", "completed"]),
          preview=st.booleans())  # fmt: skip
    def change_jobs(self, action: str, name: str, status: str, preview: bool) -> None:
        rows = [r for r in self.model.rows.values() if (r.queue, r.status) == (name, status)]
        actions = {"retry": {"retry", "wait"}, "cancel": {"cancel", "wake"}, "discard": set()}[
            action
        ]
        can_change = {
            "retry": lambda r: r.status in ("failed", "cancelled"),
            "cancel": lambda r: not r.terminal,
            "discard": lambda r: r.terminal,
        }[action]
        target_actions = {r.id: frozenset(actions) for r in rows if can_change(r) and not preview}
        deleted = frozenset(target_actions if action == "discard" else ())
        answer = self.call(
            Step(f"{action} {status}", target_actions=target_actions, deleted=deleted),
            "select change_jobs($1, $2, $3)", action, {"queue": name, "status": status}, preview,
            refusable=True,
        )  # fmt: skip
        if isinstance(answer, Refusal):
            assert answer.code == "PQ_CONFLICT" and action == "retry", answer
            return
        if preview:
            assert answer["changed"] == 0, answer
        assert answer["matched"] == sum(map(can_change, rows)), answer

    def purge(self, name: str) -> None:
        rows = [r for r in self.model.rows.values() if (r.queue, r.status) == (name, "pending")]
        answer = self.call(
            Step("purge", target_actions={row.id: frozenset({"cancel"}) for row in rows}),
            "select purge_queue($1)", name,
        )  # fmt: skip
        assert answer["changed"] == len(rows), answer
        assert all(self.model.rows[row.id].status == "cancelled" for row in rows), rows

    def pause_queue(self, name: str, seconds: float | None) -> None:
        self.call(
            Step("pause_queue"),
            "select pause_queue($1, picture_queue._now() + make_interval(secs => $2))",
            name, seconds,
        )  # fmt: skip
        assert name in self.model.paused_queues

    def resume_queue(self, name: str, drain: bool) -> None:
        if drain:
            self.draining_queues.add(name)
            self.call(Step("drain_queue"), "select drain_queue($1)", name)
        else:
            self.draining_queues.discard(name)
            self.call(Step("resume_queue"), "select resume_queue($1)", name)
            assert name not in self.model.paused_queues

    def pause_key(self, key: str, seconds: float | None) -> None:
        self.call(
            Step("pause_key"),
            "select pause_key($1, picture_queue._now() + make_interval(secs => $2))",
            key, seconds,
        )  # fmt: skip
        self.model.paused_keys[key] = self.model.now + seconds if seconds else float("inf")

    def resume_key(self, key: str) -> None:
        self.call(
            Step("resume_key", target_actions=self.permit_unblocking()),
            "select resume_key($1)",
            key,
        )
        self.model.paused_keys.pop(key, None)

    @rule(
        action=st.sampled_from(["pause", "pause for 20 s", "resume", "resume", "drain"]),
        name=any_queue,
    )
    def pause_or_resume_queue(self, action: str, name: str) -> None:
        """Pause, resume or drain a queue."""
        if action.startswith("pause"):
            self.pause_queue(name, 20 if action.endswith("s") else None)
        else:
            self.resume_queue(name, action == "drain")

    @rule(
        action=st.sampled_from(["pause", "pause for 20 s", "resume", "resume"]),
        key=st.sampled_from(KEYS),
    )
    def pause_or_resume_key(self, action: str, key: str) -> None:
        """Pause or resume a limit key."""
        if action.startswith("pause"):
            self.pause_key(key, 20 if action.endswith("s") else None)
        else:
            self.resume_key(key)

    @precondition(lambda self: self.has_limits)
    @rule(key=st.sampled_from(LIMITED_KEYS), limit=st.one_of(any_limit, any_limit, st.none()))
    def change_limit(self, key: str, limit: dict[str, Any] | None) -> None:
        if limit:
            self.set_limit(key, limit)
        elif key in self.model.limits:
            del self.model.limits[key]
            self.call(
                Step("delete_limit", target_actions=self.permit_unblocking()),
                "select delete_limit($1)",
                key,
            )

    @rule(
        action=st.sampled_from(["purge", "weight", "weight"]),
        name=any_queue,
        weight=st.sampled_from([0.5, 1, 3]),
    )
    def purge_or_set_weight(self, action: str, name: str, weight: float) -> None:
        """Purge a queue or set the weight of a tenant."""
        if action == "purge":
            self.purge(name)
        else:
            self.call(Step("set_tenant"), "select set_tenant($1, $2)", TENANTS[1], weight)

    @rule()
    def maintain(self) -> None:
        self.call(
            Step("maintain", other_actions=MAINTENANCE), "select picture_queue.maintain()::text"
        )
