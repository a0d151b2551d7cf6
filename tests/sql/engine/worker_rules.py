"""The rules of the model test that make calls of workers, with valid or ended leases."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from .base_machine import (
    AGED,
    EVENTS,
    FAIR,
    PLAIN,
    QUEUES,
    QUIET,
    TYPES,
    WORKERS,
    BaseMachine,
    any_number,
    any_outcome,
    any_worker,
)
from .engine import JobRow
from .model import CLAIM, FOLLOW_UPS, MAINTENANCE, Step


class WorkerRules(BaseMachine):
    """Rules that claim and report jobs."""

    @rule(worker_n=any_worker, max_jobs=st.sampled_from([1, 1, 2, 5, 20]),
          queues=st.sampled_from([QUEUES, [PLAIN], [FAIR, PLAIN], [AGED, QUIET]]),
          types=st.sampled_from([TYPES, TYPES, ["a"], ["b", "c"]]),
          lease=st.sampled_from([5, 30]), weighted=st.booleans())  # fmt: skip
    def claim(
        self, worker_n: int, max_jobs: int, queues: Any, types: Any, lease: float, weighted: bool
    ) -> None:
        request = next(self.ids)
        self.advance_clock()
        answer = self.engine.call(
            "select claim_jobs($1, $2, $3, $4, $5, $6, $7)",
            f"w{worker_n}", queues, types, max_jobs, lease, UUID(request),
            [float(n + 1) for n in range(len(queues))] if weighted else None,
        )  # fmt: skip
        claimed = self.record_claim(worker_n, answer, request)
        candidates = {job for job, row in self.model.rows.items() if row.hold != "waiting"}
        self.check_step(Step("claim", other_actions=CLAIM, claimed=claimed))
        rows = [self.model.rows[job] for job in claimed]
        assert len(rows) <= max_jobs
        for row in rows:
            assert row.queue in queues and row.job_type in types, row
            assert row.worker == f"w{worker_n}", row
            assert row.lease_expires_at == pytest.approx(self.model.now + lease), row
        if not weighted:
            places = [(row.rank, row.turn, row.seq) for row in rows]
            assert places == sorted(places), rows
            self.check_none_skipped(rows, max_jobs, queues, types, candidates)

    def check_none_skipped(
        self, rows: list[JobRow], max_jobs: int, queues: Any, types: Any, candidates: set[str]
    ) -> None:
        """Check that the claim skipped no job that it should have returned.

        The claim may leave a claimable job only if the job comes later in the order or its limit
        may be reached.

        Args:
            rows: The claimed jobs.
            candidates: The jobs that were not waiting before the claim. A claim may abandon an
                expired parent; it need not return a child that thereby became claimable.
        """
        last_place = max(((row.rank, row.turn, row.seq) for row in rows), default=None)
        for job in candidates & self.model.rows.keys():
            row = self.model.rows[job]
            if (
                row.state == ("pending", None)
                and row.queue in queues
                and row.job_type in types
                and self.model.paused_queues.get(row.queue, 0) <= self.model.now
                and (row.expires_at is None or row.expires_at > self.model.now)
                and not any(map(self.model.has_no_capacity, row.keys))
            ):
                assert len(rows) == max_jobs, f"{row} was not claimed; only {len(rows)} jobs were"
                place = (row.rank, row.turn, row.seq)
                assert last_place and last_place < place, f"{row} was skipped"

    @precondition(lambda self: self.last_claims)
    @rule(n=any_number)
    def claim_again(self, n: int) -> None:
        """Repeat a claim whose answer was lost.

        The id of a claim request is also the id of the leases that the claim grants.
        """
        worker_n = [*self.last_claims][n % len(self.last_claims)]
        lease, claimed_before = self.last_claims[worker_n]
        self.advance_clock()
        held = {job for job in claimed_before if self.model.is_leased(job, lease)}
        running = {job for job in held if not self.model.is_overdue(job)}
        answer = self.engine.call(
            "select claim_jobs($1, $2, $3, 20, 5, $4)", f"w{worker_n}", QUEUES, TYPES, UUID(lease)
        )
        # If all leases of the first claim have ended, the repeated claim is a new claim.
        answered = {job["id"] for job in answer}
        granted = [
            job
            for job in answer
            if job["id"] not in held or job["version"] > self.model.rows[job["id"]].version
        ]
        claimed = self.record_claim(worker_n, granted, lease) if granted else {}
        self.check_step(Step("claim again", other_actions=CLAIM, claimed=claimed))
        if running:
            assert not granted and running <= answered <= held, answer

    @rule(worker_n=any_worker, max_jobs=st.sampled_from([1, 3, 20]))
    def claim_from_all_queues(self, worker_n: int, max_jobs: int) -> None:
        self.claim(worker_n, max_jobs, QUEUES, TYPES, 30, False)

    @rule(worker_n=any_worker)
    def claim_legacy(self, worker_n: int) -> None:
        self.advance_clock()
        row = self.engine.call("select to_jsonb(j) from claim_next_job('plain') j")
        claimed = {row["id"]: row["lease_id"]} if row else {}
        self.leases[worker_n] = [*self.leases[worker_n], *claimed.items()][-12:]
        # This call does overdue maintenance, because there may be no worker that does it.
        self.check_step(Step("claim_next_job", other_actions=CLAIM | MAINTENANCE, claimed=claimed))

    @rule(worker_n=any_worker)
    def heartbeat(self, worker_n: int) -> None:
        leases = {job: lease for job, lease in self.leases[worker_n]}
        before = dict(self.model.rows)
        self.advance_clock()
        answer = self.engine.call(
            "select heartbeat_jobs($1, $2)", f"w{worker_n}",
            [{"job_id": job, "lease_id": lease} for job, lease in leases.items()],
        )  # fmt: skip
        held = {job for job, lease in leases.items() if self.model.is_leased(job, lease)}
        self.check_step(Step("heartbeat"))
        lost = set(answer["lost"])
        assert leases.keys() - held <= lost, "a lease that had ended was extended"
        for job in held:
            old, new = before[job], self.model.rows[job]
            assert new.lease_expires_at and old.lease_expires_at and old.lease_seconds
            # The database takes the lease from a job that has run 30 s longer than its timeout, or
            # that has not stopped 30 s after a cancel request.
            may_be_lost = (
                old.cancel_requested_at is not None
                and old.cancel_requested_at + 30 <= self.model.now
            ) or old.started_at + self.timeout(old) + 30 <= self.model.now
            assert may_be_lost or job not in lost, old
            assert (job in answer["cancel"]) == (
                old.cancel_requested_at is not None and job not in lost
            ), old
            if not may_be_lost and not self.is_legacy(old):
                assert self.model.now < new.lease_expires_at, new
                assert new.lease_expires_at <= self.model.now + old.lease_seconds + 1e-3, new

    @staticmethod
    def is_legacy(row: JobRow) -> bool:
        return row.worker == "claim_next_job"

    @staticmethod
    def timeout(row: JobRow) -> float:
        return row.timeout_seconds or 600

    @rule(n=any_number, percent=st.sampled_from([0, 40, 60, 100]), stale=st.booleans())
    def progress(self, n: int, percent: int, stale: bool) -> None:
        _, job, lease = self.choose_lease(n, stale)
        if job not in self.model.rows:
            return
        held = self.model.is_leased(job, lease)
        answer = self.call(
            Step(
                "progress", target_actions={job: frozenset({"progress"})},
                throttled=frozenset([job]),
            ),
            "select report_progress($1, $2, $3, $4)", UUID(job), UUID(lease), percent, "so far",
            refusable=True,
        )  # fmt: skip
        if held:
            row = self.model.rows[job]
            assert answer == {"cancel_requested": row.cancel_requested_at is not None}
            assert (row.progress, row.message) == (percent, "so far")
        else:
            assert answer.code in ("PQ_STALE_LEASE", "PQ_UNKNOWN_JOB"), answer

    @rule(numbers=st.lists(any_number, min_size=1, max_size=4), outcome=any_outcome,
          stale=st.sampled_from([False] * 3 + [True]),
          next_jobs=st.sampled_from([0, 0, 2]))  # fmt: skip
    def report(
        self, numbers: list[int], outcome: dict[str, Any], stale: bool, next_jobs: int
    ) -> None:
        """Report jobs, and claim jobs in the same call if `next_jobs` is not 0.

        Args:
            numbers: Select the leases to report; see `choose_lease`.
            outcome: The outcome of all jobs.
            stale: True to report ended leases.
            next_jobs: Maximum number of jobs to claim.
        """
        chosen = [self.choose_lease(n, stale) for n in numbers]
        worker_n = chosen[0][0]
        leases = {job: lease for _, job, lease in chosen}
        expected = {job: self.expected_answer(job, lease, outcome) for job, lease in leases.items()}
        items = [{"job_id": job, "lease_id": lease, **outcome} for job, lease in leases.items()]
        request = next(self.ids)
        claim = next_jobs and {
            "worker": f"w{worker_n}", "queues": QUEUES, "job_types": TYPES, "max_jobs": next_jobs,
            "request_id": request,
        }  # fmt: skip
        self.advance_clock()
        answer = self.engine.call("select report_jobs($1, $2)", items, claim or None)
        # The id of a claim request is also the id of the leases that the claim grants.
        claimed = {job["id"]: request for job in answer["jobs"]}
        target_actions = {
            job: frozenset(
                {action, *(["wake"] if action == "park" else []), *(CLAIM if next_jobs else [])}
            )
            for job, (_, action) in expected.items()
            if action
        }
        self.check_step(
            Step(
                f"report {outcome}",
                target_actions=target_actions,
                other_actions=FOLLOW_UPS | (CLAIM if next_jobs else set()),
                claimed=claimed,
            )
        )
        assert [(o["job_id"], o["outcome"]) for o in answer["outcomes"]] == [
            (job, reply) for job, (reply, _) in expected.items()
        ]
        if next_jobs:
            self.record_claim(worker_n, answer["jobs"], request)
        else:
            self.check_outcomes(expected, outcome)

    @rule(numbers=st.lists(any_number, min_size=1, max_size=4))
    def complete(self, numbers: list[int]) -> None:
        self.report(numbers, {"outcome": "completed", "result": {"ok": True}}, False, 0)

    @rule(numbers=st.lists(any_number, min_size=1, max_size=2), event=st.sampled_from(EVENTS))
    def park(self, numbers: list[int], event: str | None) -> None:
        outcome = {"outcome": "parked", "event": event, "delay_seconds": 300}
        self.report(numbers, outcome, False, 0)

    @rule(n=any_number, outcome=any_outcome)
    def report_after_another_claim(self, n: int, outcome: dict[str, Any]) -> None:
        """Report jobs after their leases have expired and another worker runs them."""
        worker_n, _, _ = self.choose_lease(n, False)
        self.advance_clock(31)
        self.maintain()
        self.claim((worker_n + 1) % len(WORKERS), 20, QUEUES, TYPES, 30, False)
        self.heartbeat(worker_n)
        self.report([n, n + 1], outcome, True, 0)

    @rule(n=any_number)
    def complete_legacy(self, n: int) -> None:
        """Complete a job as a caller of claim_next_job does, without a lease id."""
        _, job, _ = self.choose_lease(n, False)
        row = self.model.rows.get(job)
        if row is None:
            return
        _, action = self.expected_answer(job, row.lease_id or "", {"outcome": "completed"})
        answer = self.call(
            Step("complete_job", target_actions={job: frozenset([action])} if action else {}),
            "select complete_job($1)", UUID(job), refusable=True,
        )  # fmt: skip
        if not self.is_legacy(row) or row.lease_id is None:
            assert answer.code == "PQ_STALE_LEASE", answer
        else:
            assert answer == self.model.rows[job].status, answer

    @rule(n=any_number, key=st.sampled_from(["k:1", "m:1", "queue:plain"]))
    def snooze_and_pause(self, n: int, key: str) -> None:
        """Snooze a job and pause its key or queue, as after a response with Retry-After."""
        _, job, lease = self.choose_lease(n, False)
        outcome = {"outcome": "snoozed", "delay_seconds": 15, "pause_key": key}
        reply, action = self.expected_answer(job, lease, outcome)
        answer = self.call(
            Step("retry after", target_actions={job: frozenset({action})} if action else {}),
            "select report_jobs($1)",
            [{"job_id": job, "lease_id": lease, **outcome}],
        )
        assert answer["outcomes"][0]["outcome"] == reply
        if reply != "ok":
            return
        until = self.model.now + 15
        if key.startswith("queue:"):
            assert key[6:] in self.model.paused_queues
        else:
            self.model.paused_keys[key] = max(self.model.paused_keys.get(key, 0), until)

    def check_outcomes(self, expected: dict[str, Any], outcome: dict[str, Any]) -> None:
        for job, (_, action) in expected.items():
            row = self.model.rows.get(job)
            if action in ("back_off", "snooze") and "delay_seconds" in outcome:
                assert row and row.scheduled_for == pytest.approx(
                    self.model.now + outcome["delay_seconds"]
                )
            if action == "complete":
                assert row and (row.result, row.progress) == ({"ok": True}, 100), row
            if action in ("fail", "back_off"):
                assert row and row.error == outcome["error"], row
