"""A running worker: wake-ups, responses, confirmations of starts, and expired leases."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from picture_queue import (
    JobContext,
    RateLimited,
    errors,
)
from picture_queue.worker import slots, supervisor
from picture_queue.worker.outcomes import Completed

from .conftest import WaitingHandler, until


async def test_a_wake_up_causes_a_claim(harness):
    worker = harness.make_worker()

    @worker.handler("resize")
    async def resize() -> None: ...

    async with worker:
        await worker._signals.idle.next()
        job = harness.add_job()
        harness.subscriptions.wake("default", "enqueue")
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "completed"


async def test_a_wake_up_for_a_cancel_causes_a_heartbeat_at_once(harness):
    worker = harness.make_worker()
    handler = WaitingHandler(worker)
    job = harness.add_job()
    async with worker:
        await handler.wait_started()
        harness.heartbeat_answer = {"cancel": [job], "lost": []}
        harness.subscriptions.wake("default", "cancel")
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "cancelled"
    assert handler.context.cancel_requested


async def test_a_worker_without_wake_ups_claims_when_a_slot_becomes_free(harness, backend):
    worker = harness.make_worker(concurrency=1)
    handler = WaitingHandler(worker)
    async with worker:
        await worker._signals.idle.next()
        harness.subscriptions.listeners["pq:queue:default"].lost()
        harness.add_job()
        worker._supervisor._claimer.request_claim()
        await handler.wait_started()
        second = harness.add_job()
        handler.may_return.set()
        while second not in harness.reported:
            await worker._signals.reported.next()


@pytest.mark.parametrize(
    ("answer", "outcome"), [({"cancel_requested": True}, "cancelled"), (None, None)]
)
async def test_the_response_to_progress_can_stop_a_handler(
    harness, backend, answer, outcome, caplog
):
    def progress(params: dict[str, Any]) -> Any:
        if answer is None:
            raise errors.StaleLease("the lease ended")
        return answer

    backend.answers["report_progress"] = progress
    worker = harness.make_worker()

    @worker.handler("resize")
    async def resize(payload: dict[str, Any], job: JobContext) -> None:
        await job.progress(10)
        await asyncio.Event().wait()

    job = harness.add_job()
    async with worker:
        assert str((await worker._signals.outcome.next())[0]) == job
    assert harness.reported.get(job, {}).get("outcome") == outcome
    assert ("is lost and its handler stopped" in caplog.text) is (outcome is None)


async def test_a_failed_progress_call_does_not_stop_the_handler(harness, backend):
    def fail(params: dict[str, Any]) -> Any:
        raise errors.Busy("not now")

    backend.answers["report_progress"] = fail
    worker = harness.make_worker()

    @worker.handler("resize")
    async def resize(job: JobContext) -> int:
        await job.progress(10)
        await backend.next_call("report_progress")
        return 1

    job = harness.add_job()
    async with worker:
        await worker._signals.reported.next()
    assert harness.reported[job]["result"] == 1


@pytest.fixture
def clock(monkeypatch):
    """The clock of leases, which is ahead of the real clock by `seconds`.

    A test sets `seconds` to simulate that the event loop was blocked for this time.
    """
    offset = SimpleNamespace(seconds=0.0)
    fake_time = SimpleNamespace(monotonic=lambda: time.monotonic() + offset.seconds)
    monkeypatch.setattr(slots, "time", fake_time)
    return offset


async def test_jobs_claimed_ahead_are_not_started_after_their_lease_has_expired(
    harness, backend, clock, monkeypatch
):
    monkeypatch.setattr(slots.Slots, "_target_ahead", lambda self: 3)
    worker = harness.make_worker(concurrency=1)
    started: list[str] = []

    @worker.handler("resize")
    async def block(payload: dict[str, Any], job: JobContext) -> None:
        started.append(str(job.id))
        clock.seconds = 40

    jobs = [harness.add_job(lease_seconds=30) for _ in range(4)]
    async with worker:
        await worker._signals.reported.next()
    claim = await backend.next_call("claim_jobs")
    assert claim["max_jobs"] == 4
    assert started == jobs[:1]
    assert harness.reported.keys() == set(jobs[:1])


async def test_a_last_attempt_starts_after_its_confirmation(harness, backend):
    worker = harness.make_worker(concurrency=1)
    handler = WaitingHandler(worker)
    confirming, may_confirm = asyncio.Event(), asyncio.Event()

    async def heartbeat(params: dict[str, Any]) -> Any:
        if params["leases"]:
            confirming.set()
            await may_confirm.wait()
        return harness.heartbeat_answer

    backend.answers["heartbeat_jobs"] = heartbeat
    job = harness.add_job(confirm_start=True)
    async with worker:
        await asyncio.wait_for(confirming.wait(), 5)
        assert worker._supervisor._slots.free == 0
        assert not handler.started.is_set()
        may_confirm.set()
        await handler.wait_started()
        handler.may_return.set()
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "completed"


async def test_last_attempts_are_confirmed_together_on_a_slow_connection(
    harness, backend, monkeypatch
):
    """Jobs that are held too long are released, but jobs that wait for confirmation are not."""
    monkeypatch.setattr(slots, "MAX_HELD_SECONDS", 0.02)
    monkeypatch.setattr(slots.Slots, "_target_ahead", lambda self: 4)
    calls: list[int] = []

    async def heartbeat(params: dict[str, Any]) -> Any:
        calls.append(len(params["leases"]))
        await asyncio.sleep(1.1 if params["leases"] else 0)
        return harness.heartbeat_answer

    backend.answers["heartbeat_jobs"] = heartbeat
    worker = harness.make_worker(concurrency=4)
    started: list[float] = []

    @worker.handler("resize")
    async def resize() -> None:
        started.append(time.monotonic())

    jobs = [harness.add_job(confirm_start=True) for _ in range(8)]
    async with worker:
        await until(lambda: len(started) == 4)
        assert started[3] - started[0] < 0.5
        assert harness.reported.keys().isdisjoint(jobs[:4])
    assert next(count for count in calls if count) == 4


async def test_a_stop_releases_a_job_that_waits_for_its_confirmation(harness, backend):
    worker = harness.make_worker()
    handler = WaitingHandler(worker)
    confirming, may_confirm = asyncio.Event(), asyncio.Event()

    async def heartbeat(params: dict[str, Any]) -> Any:
        confirming.set()
        await may_confirm.wait()
        return harness.heartbeat_answer

    backend.answers["heartbeat_jobs"] = heartbeat
    job = harness.add_job(confirm_start=True)
    async with worker:
        await asyncio.wait_for(confirming.wait(), 5)
        asyncio.get_running_loop().call_later(0.1, may_confirm.set)
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.started.is_set()


async def test_a_lease_lost_before_the_confirmation_frees_the_slot(harness, backend):
    worker = harness.make_worker(concurrency=1)
    handler = WaitingHandler(worker)
    lost, job = harness.add_job(confirm_start=True), harness.add_job()
    harness.heartbeat_answer = {"cancel": [], "lost": [lost]}
    async with worker:
        await handler.wait_started()
        assert str(handler.context.id) == job
        handler.may_return.set()
        await worker._signals.reported.next()
    assert harness.reported.keys() == {job}


async def test_a_cancelled_job_that_waits_for_its_confirmation_is_cancelled(harness, backend):
    worker = harness.make_worker()
    handler = WaitingHandler(worker)
    job = harness.add_job(confirm_start=True)
    harness.heartbeat_answer = {"cancel": [job], "lost": []}
    async with worker:
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "cancelled"
    assert not handler.started.is_set()


async def test_a_job_received_after_the_end_of_its_lease_is_released(harness, backend, clock):
    worker = harness.make_worker()
    handler = WaitingHandler(worker)

    def answer_late(params: dict[str, Any]) -> list[dict[str, Any]]:
        clock.seconds = 40
        return harness.claim(params)

    backend.answers["claim_jobs"] = answer_late
    job = harness.add_job(lease_seconds=30)
    async with worker:
        await worker._signals.reported.next()
    assert harness.reported[job]["outcome"] == "released"
    assert not handler.started.is_set()


async def test_a_job_that_cannot_be_started_does_not_affect_others(harness):
    worker = harness.make_worker()

    @worker.handler("resize")
    async def resize() -> int:
        return 1

    # A row without a timeout is invalid.
    invalid, valid = harness.add_job(timeout_seconds=None), harness.add_job()
    async with worker:
        for _ in range(2):
            await worker._signals.reported.next()
    assert harness.reported[invalid]["outcome"] == "failed"
    assert harness.reported[valid]["outcome"] == "completed"


async def test_no_job_is_claimed_before_the_pause_of_a_key_is_written(harness, backend):
    may_answer = asyncio.Event()

    async def answer_later(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        return harness.report(params)

    backend.answers["report_jobs"] = answer_later
    worker = harness.make_worker(concurrency=1)

    @worker.handler("resize")
    async def limited() -> None:
        raise RateLimited(30, key="model:flux")

    async with worker:
        harness.add_job()
        harness.subscriptions.wake("default", "enqueue")
        params = await backend.next_call("report_jobs")
        assert params["outcomes"][0]["pause_key"] == "model:flux"
        while not backend.calls.empty():
            backend.calls.get_nowait()
        harness.add_job()
        harness.subscriptions.wake("default", "enqueue")
        for _ in range(20):
            await asyncio.sleep(0)
        calls = [backend.calls.get_nowait()[0] for _ in range(backend.calls.qsize())]
        assert "claim_jobs" not in calls
        may_answer.set()
        await backend.next_call("claim_jobs")


async def test_a_worker_is_ready_only_while_its_key_is_accepted(harness, backend):
    worker = harness.make_worker(poll_interval=0.02)
    async with worker:
        await worker._signals.idle.next()
        assert worker.is_ready

        def refuse(params: dict[str, Any]) -> Any:
            raise errors.AuthenticationFailed("the key was rotated")

        backend.answers["claim_jobs"] = refuse
        await until(lambda: not worker.is_ready)
        backend.answers["claim_jobs"] = harness.claim
        await until(lambda: worker.is_ready)


async def test_claims_stop_while_outcomes_cannot_be_written(harness, backend, monkeypatch):
    # Otherwise the worker claims jobs ahead, and their number depends on the speed of the machine.
    monkeypatch.setattr(slots, "AHEAD_SECONDS", 0.0)
    can_report = False

    def report(params: dict[str, Any]) -> Any:
        if not can_report:
            raise errors.Busy("not now")
        return harness.report(params)

    backend.answers["report_jobs"] = report
    worker = harness.make_worker(concurrency=2)

    @worker.handler("resize")
    async def resize() -> None: ...

    async with worker:
        for _ in range(20):
            harness.add_job()
        for _ in range(4):
            harness.subscriptions.wake("default", "enqueue")
            await worker._signals.outcome.next()
        await until(lambda: not worker._supervisor._slots.attempts)
        harness.subscriptions.wake("default", "enqueue")
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(harness.jobs) == 16
        can_report = True
        for _ in range(20):
            await worker._signals.reported.next()


async def test_an_outcome_whose_log_took_longer_than_its_lease_is_not_reported(make_job):
    """The worker may have claimed the job again, and must not replace the newer outcome."""
    job = make_job()
    reported: list[Any] = []
    # A supervisor without a running worker: only its slots and its reporter are used.
    tested: Any = supervisor.Supervisor.__new__(supervisor.Supervisor)
    tested._slots = slots.Slots(1, lambda job: None)
    tested._reporter = SimpleNamespace(put=lambda *report: reported.append(report))

    async def claim_again() -> None:
        tested._slots.add(slots.Lease(make_job(id=job.id_text), 0.0))

    attempt: Any = SimpleNamespace(job=job, log=SimpleNamespace(flush=claim_again), duration=1.0)
    tested._slots.add(slots.Lease(job, 0.0, attempt=attempt))
    await tested._report_after_log(attempt, Completed("one"))
    assert reported == []


async def test_claims_continue_after_a_job_that_pauses_a_key_loses_its_lease(harness, backend):
    """Claims wait until the pause is reported. If the lease is lost, there will be no report."""

    async def lose_lease(params: dict[str, Any]) -> Any:
        await asyncio.sleep(0)  # Meanwhile the worker frees the job's slot and pauses claims.
        raise errors.StaleLease("another worker runs it")

    backend.answers["log_job"] = lose_lease
    worker = harness.make_worker(concurrency=1)

    @worker.handler("resize")
    async def resize(payload: dict[str, Any], job: JobContext) -> RateLimited | None:
        if job.id != UUID(first):
            return None
        job.log("the service is busy")
        harness.add_job()
        return RateLimited(60, key="a-service")

    first = harness.add_job()
    async with worker:
        for _ in range(2):
            await worker._signals.outcome.next()
