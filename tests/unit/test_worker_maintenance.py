"""The maintenance loop: rounds, wake-ups, failures and its stop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue.errors import Busy
from picture_queue.worker import maintenance
from picture_queue.worker._calls import RetryDelay, WorkerCalls
from picture_queue.worker._signals import Signals
from picture_queue.worker.maintenance import MaintenanceLoop


class Bench:
    """A maintenance loop, and a database that answers what the test says."""

    def __init__(self, project: Any) -> None:
        self.project = project
        self.signals = Signals().watch()
        self.answer: dict[str, Any] = {"leased": True, "next_in": 60}
        self.called_at: list[float] = []
        self.work = asyncio.Event()
        project.answers["maintain_jobs"] = self.give
        self.loop = MaintenanceLoop(WorkerCalls(project), "w", self.work.set, self.signals)

    def give(self, params: dict[str, Any]) -> dict[str, Any]:
        self.called_at.append(asyncio.get_running_loop().time())
        return self.answer

    async def no_call_follows(self) -> bool:
        while not self.project.asked.empty():
            self.project.asked.get_nowait()
        for _ in range(20):
            await asyncio.sleep(0)
        return bool(self.project.asked.empty())


@pytest.fixture
async def bench(project) -> AsyncIterator[Bench]:
    made = Bench(project)
    yield made
    await made.loop.stop(0)


async def test_the_first_round_is_at_the_start(bench, project):
    bench.answer |= {"promoted": 2, "pruned": 7}
    bench.loop.start()
    assert await project.next("maintain_jobs") == {"force": False, "worker": "w"}
    done = await bench.signals.maintained.next()
    assert (done.leased, done.promoted, done.swept) == (True, 2, 0)
    assert done.model_dump()["pruned"] == 7
    assert bench.work.is_set(), "the worker looks for jobs"


async def test_a_round_that_found_nothing_leads_to_no_claim(bench):
    bench.answer |= {"pruned": 7, "folded": 3}
    bench.loop.start()
    await bench.signals.maintained.next()
    assert not bench.work.is_set()


async def test_the_holder_waits_until_the_next_round_is_due(bench):
    bench.answer["next_in"] = 0.05
    bench.loop.start()
    for _ in range(3):
        await bench.signals.maintained.next()
    first, second, third = bench.called_at[:3]
    assert min(second - first, third - second) >= 0.049


async def test_rounds_follow_each_other_while_work_is_left_with_a_short_pause(bench):
    bench.answer["next_in"] = 0
    bench.loop.start()
    for _ in range(5):
        await bench.signals.maintained.next()
    assert bench.called_at[4] - bench.called_at[0] >= 4 * maintenance._MIN_PAUSE - 0.001


async def test_a_wake_up_makes_the_holder_run_a_round_at_once(bench):
    bench.loop.start()
    await bench.signals.maintained.next()
    bench.loop.wake()
    await bench.signals.maintained.next()


async def test_a_wake_up_during_a_round_leads_to_another(bench, project):
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(params: dict[str, Any]) -> Any:
        await answer
        return bench.give(params)

    project.answers["maintain_jobs"] = slow
    bench.loop.start()
    await project.next("maintain_jobs")
    bench.loop.wake()
    answer.set_result(None)
    for _ in range(2):
        await bench.signals.maintained.next()


async def test_a_worker_without_the_lease_takes_over_when_it_is_told_to(bench, project):
    bench.answer = {"leased": False, "next_in": 60}
    bench.loop.start()
    await bench.signals.maintained.next()
    bench.loop.wake()
    assert not (await bench.signals.maintained.next()).leased
    assert len(bench.called_at) == 2


async def test_a_worker_without_the_lease_asks_again(bench):
    bench.answer = {"leased": False, "next_in": 0.01}
    bench.loop.start()
    for _ in range(3):
        await bench.signals.maintained.next()


@pytest.mark.parametrize(
    "failure", [Busy("not now"), TimeoutError(), RuntimeError("a bug"), {"no": "answer"}]
)
async def test_failures_in_a_row_are_logged_once(bench, project, caplog, failure):
    caplog.set_level("INFO")
    bench.loop._delay = RetryDelay(first=0.001, longest=0.002)
    failures = [failure] * 10

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            found = failures.pop()
            if isinstance(found, Exception):
                raise found
            return found
        return bench.give(params)

    project.answers["maintain_jobs"] = fail_first
    bench.loop.start()
    await bench.signals.maintained.next()
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("Maintenance has failed 3 times in a row: ")
    assert second == "Maintenance works again after 10 failures"


async def test_delays_between_failures_grow(bench, project):
    bench.loop._delay = RetryDelay(first=0.004, longest=0.064)

    def fail(params: dict[str, Any]) -> Any:
        bench.give(params)
        raise Busy("not now")

    project.answers["maintain_jobs"] = fail
    bench.loop.start()
    for _ in range(6):
        await project.next("maintain_jobs")
    # Each pause is at least half of its length.
    assert bench.called_at[5] - bench.called_at[0] >= (0.004 + 0.008 + 0.016 + 0.032 + 0.064) / 2


async def test_a_call_has_a_bound(bench, project, monkeypatch):
    timeouts: list[float | None] = []
    call = project.call

    async def note(rpc: Any, timeout: float | None = None) -> Any:
        timeouts.append(timeout)
        return await call(rpc, timeout)

    monkeypatch.setattr(project, "call", note)
    bench.loop.start()
    await bench.signals.maintained.next()
    assert timeouts == [maintenance._CALL_TIMEOUT]


async def test_a_stop_waits_for_no_answer(bench, project):
    async def never(params: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    project.answers["maintain_jobs"] = never
    bench.loop.start()
    await project.next("maintain_jobs")
    await asyncio.wait_for(bench.loop.stop(0), 5)
    assert await bench.no_call_follows()


@pytest.mark.parametrize("leased", [True, False])
async def test_a_stop_ends_the_wait_for_the_next_round(bench, leased):
    bench.answer["leased"] = leased
    bench.loop.start()
    await bench.signals.maintained.next()
    await asyncio.wait_for(bench.loop.stop(60), 5)
    assert await bench.no_call_follows()
