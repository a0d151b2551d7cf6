"""Claims: how many, when, and again when the answer was lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue import _rpc
from picture_queue.claimed_job import ClaimedJob
from picture_queue.errors import Busy
from picture_queue.settings import WorkerSettings
from picture_queue.worker._link import Link
from picture_queue.worker._signals import Signals
from picture_queue.worker.claimer import Claimer, Demand


class Bench:
    """A claimer, its slots, and a database that gives what it was told to."""

    def __init__(self, project: Any, row: Any, poll_interval: float = 30.0) -> None:
        self.free = 3
        self.ahead = 0
        self.launched: list[Any] = []
        self.asked_at: list[float] = []
        self.stock = 0
        self.project = project
        self.signals = Signals().watch()
        self._row = row
        project.answers["claim_jobs"] = self.give
        settings = WorkerSettings(queues=("a", "b"), poll_interval=poll_interval, lease=12)
        self.claimer = Claimer(
            Link(project), "w", ("resize",), settings, self._demand, self._launch, self.signals
        )

    def _demand(self) -> Demand:
        return Demand(self.free + self.ahead, self.free)

    def give(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        count = min(self.stock, params["max_jobs"])
        self.stock -= count
        return [self._row() for _ in range(count)]

    def _launch(self, job: Any, asked_at: float) -> None:
        self.launched.append(job)
        self.asked_at.append(asked_at)
        self.free -= 1

    async def idle(self) -> None:
        """Waits until there is nothing more to claim, and forgets the questions so far."""
        await self.signals.idle.next()
        while not self.project.asked.empty():
            self.project.asked.get_nowait()


@pytest.fixture
async def bench(project, row) -> AsyncIterator[Bench]:
    made = Bench(project, row)
    yield made
    await made.claimer.stop(1)


async def test_a_question_says_who_asks_for_what(bench, project):
    bench.claimer.start()
    params = await project.next("claim_jobs")
    assert params.pop("request_id")
    assert params == {
        "worker": "w",
        "queues": ["a", "b"],
        "job_types": ["resize"],
        "max_jobs": 3,
        "lease_seconds": 12,
        "start_jobs": 3,
    }


@pytest.mark.parametrize(
    ("free", "ahead", "asked"), [(2, 4, (6, 2)), (0, 5, (5, 0)), (3, -2, (1, 1)), (0, 0, None)]
)
async def test_a_claim_says_how_many_jobs_can_start_at_once(bench, free, ahead, asked):
    bench.free, bench.ahead = free, ahead
    claim = bench.claimer.ask_along()
    assert (claim and (claim.max_jobs, claim.start_jobs)) == asked
    if claim is not None:
        params = _rpc.report_jobs([], claim).params["claim"]
        assert (params["max_jobs"], params["start_jobs"]) == asked


async def test_free_slots_are_filled_in_one_round_trip(bench, project):
    bench.stock = 5
    bench.claimer.start()
    assert len(await bench.signals.claimed.next()) == 3
    assert len(bench.launched) == 3
    # There may be more, but there is no slot: the next question waits for one.
    bench.free = 2
    bench.claimer.look()
    assert len(await bench.signals.claimed.next()) == 2
    first, second = [await project.next("claim_jobs") for _ in range(2)]
    assert (first["max_jobs"], second["max_jobs"]) == (3, 2)
    assert first["request_id"] != second["request_id"]


async def test_whoever_turns_idle_asks_once_more(bench, project):
    bench.claimer.start()
    await bench.signals.idle.next()
    assert [(await project.next("claim_jobs"))["max_jobs"] for _ in range(2)] == [3, 3]
    assert project.asked.empty()


async def test_a_wake_up_makes_an_idle_worker_look(bench, project):
    bench.claimer.start()
    await bench.idle()
    bench.stock = 1
    bench.claimer.look()
    assert len(await bench.signals.claimed.next()) == 1
    await bench.idle()
    assert project.asked.empty()


async def test_a_wake_up_without_a_free_slot_is_remembered(bench, project):
    bench.claimer.start()
    await bench.idle()
    bench.free, bench.stock = 0, 1
    bench.claimer.look()
    await asyncio.sleep(0)
    bench.free = 1
    bench.claimer.wake()
    assert len(await bench.signals.claimed.next()) == 1


async def test_a_wake_up_during_a_question_leads_to_another(bench, project):
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(params: dict[str, Any]) -> Any:
        await answer
        return bench.give(params)

    bench.claimer.start()
    await bench.idle()
    project.answers["claim_jobs"] = slow
    bench.claimer.look()
    await project.next("claim_jobs")
    bench.claimer.look()
    answer.set_result(None)
    await project.next("claim_jobs")


async def test_without_wake_ups_it_polls(project, row):
    bench = Bench(project, row, poll_interval=0.02)
    bench.claimer.start()
    await bench.idle()
    bench.stock = 1
    assert len(await bench.signals.claimed.next()) == 1
    await bench.claimer.stop(1)


async def test_an_unanswered_question_is_asked_again_as_it_was(bench, project, monkeypatch):
    failures = [Busy("not now"), TimeoutError()]

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
    # The lease counts from the first question: its answer may be the one that was lost.
    assert bench.asked_at[0] < asyncio.get_running_loop().time() - 0.1


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
    assert messages[0] == "The worker gets no answer and tries on: Not now."
    assert messages[1].startswith("The worker gets answers again after")
    assert len(messages) == 2


async def test_an_unexpected_fault_does_not_end_the_claimer(bench, project, caplog, monkeypatch):
    monkeypatch.setattr("picture_queue.worker._service._AFTER_A_FAULT", 0.0)
    question = bench.claimer._question
    faults = [RuntimeError("a bug")]

    def faulty() -> Any:
        if faults:
            raise faults.pop()
        return question()

    monkeypatch.setattr(bench.claimer, "_question", faulty)
    bench.claimer.start()
    await bench.signals.idle.next()
    assert "Claimer failed and goes on" in caplog.text


# Questions that travel with reports


async def test_a_report_brings_a_question_while_there_may_be_more(bench, project):
    bench.stock = 3
    bench.claimer.hears_wake_ups = True
    bench.claimer.start()
    await bench.signals.claimed.next()
    assert bench.claimer.ask_along() is None, "no slot is free"
    bench.free = 1
    claim = bench.claimer.ask_along()
    assert claim is not None
    assert claim.max_jobs == 1
    assert bench.claimer.ask_along() is None, "one question at a time"
    bench.claimer.answered(claim, [])
    await bench.signals.idle.next()
    assert bench.claimer.ask_along() is None, "an idle worker is woken instead"
    bench.claimer.hears_wake_ups = False
    assert bench.claimer.ask_along() is not None, "one that cannot be woken always asks"


async def test_the_question_of_a_lost_report_stays_open(bench, project):
    claim = bench.claimer.ask_along()
    assert claim is not None
    bench.claimer.unanswered(claim)
    bench.claimer.start()
    assert (await project.next("claim_jobs"))["request_id"] == str(claim.request_id)


async def test_a_stopping_worker_asks_for_nothing_but_takes_the_last_answer(bench, project):
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
    assert bench.claimer.ask_along() is None
    answer.set_result(None)
    await stopping
    assert len(bench.launched) == 1
    assert project.asked.empty()


async def test_an_answer_that_fills_the_free_slots_may_not_be_all_there_is(bench, row):
    """Jobs in their last attempt are not claimed ahead, so fewer come than were asked for."""
    bench.free, bench.ahead = 2, 4
    bench.claimer.hears_wake_ups = True
    for _ in range(2):  # the first answer that is not full leads to one more question anyway
        claim = bench.claimer.ask_along()
        assert claim is not None
        assert (claim.max_jobs, claim.start_jobs) == (6, 2)
        bench.claimer.answered(claim, [ClaimedJob(row()), ClaimedJob(row())])
        bench.free = 2
    assert bench.claimer.ask_along() is not None
