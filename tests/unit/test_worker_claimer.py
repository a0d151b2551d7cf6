"""Claims of a worker: how many jobs they request, when they are made, and how they are retried."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.errors import Busy, ConnectionFailed, InvalidArgument, NotAuthenticated
from picture_queue.settings import WorkerSettings
from picture_queue.worker import _calls
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker.claimer import Claimer

from ..signals import Signals


class FakeSlots:
    """Slots whose free capacity the test sets."""

    def __init__(self) -> None:
        self.free = 3
        self.ahead = 0
        self.is_paused = False

    def demand(self) -> int:
        return 0 if self.is_paused else max(0, self.free + self.ahead)

    def restart_measurement(self) -> None: ...


class Harness:
    """A claimer, its slots, and a fake database with a number of pending jobs."""

    def __init__(self, backend: Any, make_row: Any, poll_interval: float = 30.0) -> None:
        self.slots = FakeSlots()
        self.taken: list[Any] = []
        self.requested_at: list[float] = []
        self.pending = 0
        self.backend = backend
        self.signals = Signals()
        self.calls = WorkerCalls(backend, "w", self.signals.emit)
        self._make_row = make_row
        backend.answers["claim_jobs"] = self.claim
        settings = WorkerSettings(queues=("a", "b"), poll_interval=poll_interval, lease=12)
        slots: Any = self.slots
        self.claimer = Claimer(
            self.calls,
            ("resize",),
            settings,
            slots,
            self._take,
        )
        self.claimer.receives_wake_ups = True

    def claim(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        count = min(self.pending, params["max_jobs"])
        self.pending -= count
        return [self._make_row() for _ in range(count)]

    def _take(self, job: Any, requested_at: float) -> None:
        self.taken.append(job)
        self.requested_at.append(requested_at)
        self.slots.free -= 1

    async def wait_idle(self) -> None:
        """Wait until the claimer is idle, and discard the calls recorded so far."""
        await self.signals.idle.next()
        while not self.backend.calls.empty():
            self.backend.calls.get_nowait()

    async def makes_no_more_calls(self) -> bool:
        """Run the event loop for some steps; return True if the claimer has made no new call."""
        for _ in range(20):
            await asyncio.sleep(0)
        return bool(self.backend.calls.empty())


@pytest.fixture
async def harness(backend, make_row) -> AsyncIterator[Harness]:
    harness = Harness(backend, make_row)
    yield harness
    await harness.claimer.stop(1)


async def test_a_claim_names_the_worker_and_its_queues(harness, backend):
    harness.claimer.start()
    params = await backend.next_call("claim_jobs")
    assert params.pop("request_id")
    assert params == {
        "worker": "w",
        "queues": ["a", "b"],
        "job_types": ["resize"],
        "max_jobs": 3,
        "lease_seconds": 12,
        "confirms_start": True,
    }


async def test_all_free_slots_are_filled_by_one_claim(harness, backend):
    harness.pending = 5
    harness.claimer.start()
    assert len(await harness.signals.claimed.next()) == 3
    assert len(harness.taken) == 3
    first = await backend.next_call("claim_jobs")
    # The queue has more jobs, but no slot is free for them.
    assert await harness.makes_no_more_calls()
    harness.slots.free = 2
    harness.claimer.slot_freed()
    assert len(await harness.signals.claimed.next()) == 2
    second = await backend.next_call("claim_jobs")
    assert (first["max_jobs"], second["max_jobs"]) == (3, 2)
    assert first["request_id"] != second["request_id"]


async def test_a_worker_that_becomes_idle_claims_once_more(harness, backend):
    harness.claimer.start()
    await harness.signals.idle.next()
    assert [(await backend.next_call("claim_jobs"))["max_jobs"] for _ in range(2)] == [3, 3]
    assert backend.calls.empty()


async def test_a_wake_up_makes_an_idle_worker_claim(harness, backend):
    harness.claimer.start()
    await harness.wait_idle()
    harness.pending = 1
    harness.claimer.request_claim()
    assert len(await harness.signals.claimed.next()) == 1
    await harness.wait_idle()
    assert backend.calls.empty()


async def test_a_wake_up_without_a_free_slot_is_remembered(harness, backend):
    harness.claimer.start()
    await harness.wait_idle()
    harness.slots.free, harness.pending = 0, 1
    harness.claimer.request_claim()
    await asyncio.sleep(0)
    harness.slots.free = 1
    harness.claimer.slot_freed()
    assert len(await harness.signals.claimed.next()) == 1


async def test_a_wake_up_during_a_claim_causes_another_claim(harness, backend):
    may_answer = asyncio.Event()

    async def answer_later(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        return harness.claim(params)

    harness.claimer.start()
    await harness.wait_idle()
    backend.answers["claim_jobs"] = answer_later
    harness.claimer.request_claim()
    await backend.next_call("claim_jobs")
    harness.claimer.request_claim()
    may_answer.set()
    await backend.next_call("claim_jobs")


@pytest.mark.parametrize("receives_wake_ups", [True, False])
async def test_a_free_slot_causes_a_claim_only_without_wake_ups(
    harness, backend, receives_wake_ups
):
    harness.claimer.start()
    await harness.wait_idle()
    harness.claimer.receives_wake_ups = receives_wake_ups
    harness.claimer.slot_freed()
    assert await harness.makes_no_more_calls() is receives_wake_ups


async def test_a_worker_without_wake_ups_polls(backend, make_row):
    harness = Harness(backend, make_row, poll_interval=0.02)
    harness.claimer.start()
    await harness.wait_idle()
    harness.pending = 1
    assert len(await harness.signals.claimed.next()) == 1
    await harness.claimer.stop(1)


async def test_a_claim_without_a_response_is_retried_unchanged(harness, backend):
    failures = [Busy("not now"), ConnectionFailed("cut")]

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop(0)
        return harness.claim(params)

    backend.answers["claim_jobs"] = fail_first
    harness.pending = 2
    harness.claimer.start()
    assert len(await harness.signals.claimed.next()) == 2
    requests = [await backend.next_call("claim_jobs") for _ in range(3)]
    assert requests[0] == requests[1] == requests[2]
    # The lease counts from the first call, because that call may have claimed the jobs.
    assert harness.requested_at[0] < time.monotonic() - 0.1


async def test_a_claim_whose_answer_is_too_large_is_retried_with_half_the_jobs(harness, backend):
    def refuse_large_claims(params: dict[str, Any]) -> Any:
        if params["max_jobs"] > 300:
            raise InvalidArgument("the answer would be too large")
        return harness.claim(params)

    backend.answers["claim_jobs"] = refuse_large_claims
    harness.slots.free = harness.pending = 1000
    harness.claimer.start()
    assert len(await harness.signals.claimed.next()) == 250
    sizes = [(await backend.next_call("claim_jobs"))["max_jobs"] for _ in range(3)]
    assert sizes == [1000, 500, 250]


async def test_a_function_that_always_fails_is_logged_once_while_others_succeed(caplog):
    caplog.set_level("INFO")
    calls: Any = WorkerCalls(None, "w", print)  # type: ignore[arg-type]
    for _ in range(10):
        calls.record_failure(ConnectionFailed("cut"), "heartbeat_jobs")
        calls.record_success("claim_jobs")
        assert not calls.is_up
    calls.record_success("heartbeat_jobs")
    assert calls.is_up
    assert len(caplog.records) == 2


async def test_two_threads_may_record_a_success_at_the_same_time(monkeypatch):
    """The heartbeat thread records a success while the event loop records another success."""

    def monotonic() -> float:
        if functions_of_the_thread:
            calls.record_success(functions_of_the_thread.pop())
        return 0.0

    calls: Any = WorkerCalls(None, "w", print)  # type: ignore[arg-type]
    functions_of_the_thread: list[str] = []
    calls.record_failure(Busy("not now"), "claim_jobs")
    functions_of_the_thread.append("claim_jobs")
    monkeypatch.setattr(_calls, "time", SimpleNamespace(monotonic=monotonic))
    calls.record_success("claim_jobs")
    assert calls.is_up


async def test_a_single_retry_after_does_not_stop_a_worker_for_hours():
    calls: Any = WorkerCalls(None, "w", print)  # type: ignore[arg-type]
    throttled = Busy("too many calls")
    throttled.retry_after = 86_400.0
    calls.record_failure(throttled, "claim_jobs")
    assert calls.quiet_until <= time.monotonic() + 60


async def test_an_outage_is_logged_once(harness, backend, caplog):
    caplog.set_level("INFO")
    failures = [Busy("not now")] * 3

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop()
        return harness.claim(params)

    backend.answers["claim_jobs"] = fail_first
    harness.claimer.start()
    await harness.signals.idle.next()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "The worker's calls fail and are repeated (claim_jobs): Not now."
    assert messages[1].startswith("The worker's calls succeed again after")
    assert len(messages) == 2


async def test_retry_delays_are_short_even_after_a_long_outage():
    delay = _calls.RetryDelay()
    assert max(delay.next() for _ in range(1000)) <= 2.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotAuthenticated("no such key"), "The project refuses all calls of the worker"),
        (InvalidArgument("lease_seconds is 0"), "The project refuses claims"),
    ],
)
async def test_each_refused_call_logs_an_error_without_an_interval(
    harness, backend, caplog, monkeypatch, error, expected
):
    monkeypatch.setattr(_calls, "_FAULT_LOG_INTERVAL", 0.0)
    failures = [error] * 3

    def refuse(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop()
        return harness.claim(params)

    backend.answers["claim_jobs"] = refuse
    harness.claimer.start()
    for _ in range(3):
        await backend.next_call("claim_jobs")
        assert harness.calls.is_up is not isinstance(error, NotAuthenticated)
    await harness.signals.idle.next()
    assert harness.calls.is_up
    logged_errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(logged_errors) == 3
    assert all(expected in record.getMessage() for record in logged_errors)


async def test_the_same_fault_is_logged_at_intervals(caplog):
    calls: Any = WorkerCalls(None, "w", print)  # type: ignore[arg-type]
    for _ in range(10):
        calls.record_failure(NotAuthenticated("no such key"), "claim_jobs")
    assert len(caplog.records) == 1


async def test_no_call_is_made_before_retry_after_has_passed(harness, backend):
    throttled = Busy("too many calls")
    throttled.retry_after = 0.5

    def throttle_once(params: dict[str, Any]) -> Any:
        backend.answers["claim_jobs"] = harness.claim
        raise throttled

    backend.answers["claim_jobs"] = throttle_once
    harness.pending = 1
    began = time.monotonic()
    harness.claimer.start()
    assert len(await harness.signals.claimed.next()) == 1
    assert time.monotonic() - began >= 0.5
    calls = [backend.calls.get_nowait() for _ in range(2)]
    assert [name for name, _ in calls] == ["claim_jobs"] * 2
    # The other loops of the worker make no call either.
    harness.calls.record_failure(throttled, "claim_jobs")
    with pytest.raises(Busy, match="without calls"):
        await harness.calls.call(None, 1.0)  # type: ignore[arg-type]


async def test_an_unexpected_exception_does_not_end_the_claimer(
    harness, backend, caplog, monkeypatch
):
    harness.claimer._delay = _calls.RetryDelay(first=0.0)
    claim = harness.claimer._build_claim
    failures = [RuntimeError("a bug")]

    def fail_first(demand: int) -> Any:
        if failures:
            raise failures.pop()
        return claim(demand)

    monkeypatch.setattr(harness.claimer, "_build_claim", fail_first)
    harness.claimer.start()
    await harness.signals.idle.next()
    assert "Claimer failed and continues" in caplog.text


async def test_a_stopping_worker_makes_no_new_claim_but_awaits_the_current_one(harness, backend):
    may_answer = asyncio.Event()

    async def answer_later(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        return harness.claim(params)

    harness.pending = 1
    backend.answers["claim_jobs"] = answer_later
    harness.claimer.start()
    await backend.next_call("claim_jobs")
    stopping = asyncio.create_task(harness.claimer.stop(5))
    await asyncio.sleep(0)
    may_answer.set()
    await stopping
    assert len(harness.taken) == 1
    assert backend.calls.empty()


async def test_nothing_is_claimed_while_claims_are_paused(harness, backend):
    harness.claimer.start()
    await harness.wait_idle()
    harness.slots.is_paused, harness.pending = True, 1
    harness.claimer.request_claim()
    assert await harness.makes_no_more_calls()
    harness.slots.is_paused = False
    harness.claimer.demand_changed()
    assert len(await harness.signals.claimed.next()) == 1
