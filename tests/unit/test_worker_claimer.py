"""Claims: how many, when, and again when the answer was lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue.errors import Busy, ConnectionFailed, InvalidArgument, NotAuthenticated
from picture_queue.settings import WorkerSettings
from picture_queue.worker import _calls
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker.claimer import Claimer

from ..signals import Signals


class FakeSlots:
    """A demand that the test sets."""

    def __init__(self) -> None:
        self.free = 3
        self.ahead = 0
        self.is_paused = False

    def demand(self) -> int:
        return 0 if self.is_paused else max(0, self.free + self.ahead)

    def note_answer(self) -> None: ...


class Bench:
    """A claimer, its slots, and a database that gives what it was told to."""

    def __init__(self, project: Any, row: Any, poll_interval: float = 30.0) -> None:
        self.slots = FakeSlots()
        self.taken: list[Any] = []
        self.asked_at: list[float] = []
        self.stock = 0
        self.project = project
        self.signals = Signals()
        self.calls = WorkerCalls(project, "w", self.signals.emit)
        self._row = row
        project.answers["claim_jobs"] = self.give
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

    def give(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        count = min(self.stock, params["max_jobs"])
        self.stock -= count
        return [self._row() for _ in range(count)]

    def _take(self, job: Any, asked_at: float) -> None:
        self.taken.append(job)
        self.asked_at.append(asked_at)
        self.slots.free -= 1

    async def idle(self) -> None:
        """Wait until there is nothing more to claim, and forget the claims so far."""
        await self.signals.idle.next()
        while not self.project.asked.empty():
            self.project.asked.get_nowait()

    async def no_claim_follows(self) -> bool:
        for _ in range(20):
            await asyncio.sleep(0)
        return bool(self.project.asked.empty())


@pytest.fixture
async def bench(project, row) -> AsyncIterator[Bench]:
    made = Bench(project, row)
    yield made
    await made.claimer.stop(1)


async def test_a_claim_says_who_claims_what(bench, project):
    bench.claimer.start()
    params = await project.next("claim_jobs")
    assert params.pop("request_id")
    assert params == {
        "worker": "w",
        "queues": ["a", "b"],
        "job_types": ["resize"],
        "max_jobs": 3,
        "lease_seconds": 12,
        "confirms_start": True,
    }


async def test_free_slots_are_filled_in_one_round_trip(bench, project):
    bench.stock = 5
    bench.claimer.start()
    assert len(await bench.signals.claimed.next()) == 3
    assert len(bench.taken) == 3
    # There may be more, but there is no slot: the next claim waits for one.
    assert await bench.no_claim_follows() is False
    bench.slots.free = 2
    bench.claimer.slot_freed()
    assert len(await bench.signals.claimed.next()) == 2
    first, second = [await project.next("claim_jobs") for _ in range(2)]
    assert (first["max_jobs"], second["max_jobs"]) == (3, 2)
    assert first["request_id"] != second["request_id"]


async def test_a_worker_that_turns_idle_claims_once_more(bench, project):
    bench.claimer.start()
    await bench.signals.idle.next()
    assert [(await project.next("claim_jobs"))["max_jobs"] for _ in range(2)] == [3, 3]
    assert project.asked.empty()


async def test_a_wake_up_makes_an_idle_worker_claim(bench, project):
    bench.claimer.start()
    await bench.idle()
    bench.stock = 1
    bench.claimer.request_claim()
    assert len(await bench.signals.claimed.next()) == 1
    await bench.idle()
    assert project.asked.empty()


async def test_a_wake_up_without_a_free_slot_is_remembered(bench, project):
    bench.claimer.start()
    await bench.idle()
    bench.slots.free, bench.stock = 0, 1
    bench.claimer.request_claim()
    await asyncio.sleep(0)
    bench.slots.free = 1
    bench.claimer.slot_freed()
    assert len(await bench.signals.claimed.next()) == 1


async def test_a_wake_up_during_a_claim_leads_to_another(bench, project):
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(params: dict[str, Any]) -> Any:
        await answer
        return bench.give(params)

    bench.claimer.start()
    await bench.idle()
    project.answers["claim_jobs"] = slow
    bench.claimer.request_claim()
    await project.next("claim_jobs")
    bench.claimer.request_claim()
    answer.set_result(None)
    await project.next("claim_jobs")


@pytest.mark.parametrize("receives", [True, False])
async def test_a_free_slot_is_a_reason_to_claim_where_there_may_be_a_job(bench, project, receives):
    """An idle worker is woken; one that cannot be woken has to ask."""
    bench.claimer.start()
    await bench.idle()
    bench.claimer.receives_wake_ups = receives
    bench.claimer.slot_freed()
    assert await bench.no_claim_follows() is receives


async def test_without_wake_ups_it_polls(project, row):
    bench = Bench(project, row, poll_interval=0.02)
    bench.claimer.start()
    await bench.idle()
    bench.stock = 1
    assert len(await bench.signals.claimed.next()) == 1
    await bench.claimer.stop(1)


async def test_an_unanswered_claim_is_repeated_as_it_was(bench, project):
    failures = [Busy("not now"), ConnectionFailed("cut")]

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop(0)
        return bench.give(params)

    project.answers["claim_jobs"] = fail_first
    bench.stock = 2
    bench.claimer.start()
    assert len(await bench.signals.claimed.next()) == 2
    asked = [await project.next("claim_jobs") for _ in range(3)]
    assert asked[0] == asked[1] == asked[2]
    # The lease counts from the first call: its answer may be the one that was lost.
    assert bench.asked_at[0] < time.monotonic() - 0.1


async def test_an_outage_is_logged_once(bench, project, caplog):
    caplog.set_level("INFO")
    failures = [Busy("not now")] * 3

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop()
        return bench.give(params)

    project.answers["claim_jobs"] = fail_first
    bench.claimer.start()
    await bench.signals.idle.next()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "The worker's calls fail and are repeated (claim_jobs): Not now."
    assert messages[1].startswith("The worker's calls succeed again after")
    assert len(messages) == 2


async def test_the_delay_after_a_long_outage_is_short():
    delay = _calls.RetryDelay()
    assert max(delay.next() for _ in range(1000)) <= 2.0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NotAuthenticated("no such key"), "The project refuses the worker"),
        (InvalidArgument("lease_seconds is 0"), "The project refuses claims"),
    ],
)
async def test_a_refused_worker_raises_an_alarm_that_is_repeated(
    bench, project, caplog, monkeypatch, error, text
):
    monkeypatch.setattr(_calls, "_ALARM_INTERVAL", 0.0)
    failures = [error] * 3

    def refuse(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop()
        return bench.give(params)

    project.answers["claim_jobs"] = refuse
    bench.claimer.start()
    for _ in range(3):
        await project.next("claim_jobs")
        assert bench.calls.is_up is not isinstance(error, NotAuthenticated)
    await bench.signals.idle.next()
    assert bench.calls.is_up
    alarms = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(alarms) == 3
    assert all(text in record.getMessage() for record in alarms)


async def test_alarms_are_not_repeated_at_every_attempt(caplog):
    calls: Any = WorkerCalls(None, "w", print)  # type: ignore[arg-type]
    for _ in range(10):
        calls.note_failure(NotAuthenticated("no such key"), "claim_jobs")
    assert len(caplog.records) == 1


async def test_no_call_is_made_while_the_api_asks_for_a_pause(bench, project):
    throttled = Busy("too many calls")
    throttled.retry_after = 0.5

    def limit(params: dict[str, Any]) -> Any:
        project.answers["claim_jobs"] = bench.give
        raise throttled

    project.answers["claim_jobs"] = limit
    bench.stock = 1
    began = time.monotonic()
    bench.claimer.start()
    assert len(await bench.signals.claimed.next()) == 1
    assert time.monotonic() - began >= 0.5
    assert [name for name, _ in (project.asked.get_nowait(), project.asked.get_nowait())]
    # Neither does any other loop of the worker make one.
    bench.calls.note_failure(throttled, "claim_jobs")
    with pytest.raises(Busy, match="without calls"):
        await bench.calls.call(None, 1.0)  # type: ignore[arg-type]


async def test_an_unexpected_fault_does_not_end_the_claimer(bench, project, caplog, monkeypatch):
    bench.claimer._delay = _calls.RetryDelay(first=0.0)
    claim = bench.claimer._claim
    faults = [RuntimeError("a bug")]

    def faulty(demand: int) -> Any:
        if faults:
            raise faults.pop()
        return claim(demand)

    monkeypatch.setattr(bench.claimer, "_claim", faulty)
    bench.claimer.start()
    await bench.signals.idle.next()
    assert "Claimer failed and continues" in caplog.text


async def test_a_stopping_worker_claims_nothing_but_takes_the_last_answer(bench, project):
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(params: dict[str, Any]) -> Any:
        await answer
        return bench.give(params)

    bench.stock = 1
    project.answers["claim_jobs"] = slow
    bench.claimer.start()
    await project.next("claim_jobs")
    stopping = asyncio.create_task(bench.claimer.stop(5))
    await asyncio.sleep(0)
    answer.set_result(None)
    await stopping
    assert len(bench.taken) == 1
    assert project.asked.empty()


async def test_nothing_is_claimed_while_claims_are_paused(bench, project):
    bench.claimer.start()
    await bench.idle()
    bench.slots.is_paused, bench.stock = True, 1
    bench.claimer.request_claim()
    assert await bench.no_claim_follows()
    bench.slots.is_paused = False
    bench.claimer.demand_changed()
    assert len(await bench.signals.claimed.next()) == 1
