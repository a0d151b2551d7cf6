"""The maintenance loop of a worker: regular calls, wake-ups, failures and the stop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue.errors import Busy
from picture_queue.worker import maintenance
from picture_queue.worker._calls import RetryDelay, WorkerCalls
from picture_queue.worker.maintenance import MaintenanceLoop

from ..signals import Signals


class Harness:
    """A maintenance loop, and a fake backend that returns `answer`, which the test sets."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.signals = Signals()
        self.answer: dict[str, Any] = {"leased": True, "next_in": 60}
        self.called_at: list[float] = []
        self.claim_requested = asyncio.Event()
        backend.answers["maintain_jobs"] = self.record_call
        self.loop = MaintenanceLoop(
            WorkerCalls(backend, "w", self.signals.emit), self.claim_requested.set
        )

    def record_call(self, params: dict[str, Any]) -> dict[str, Any]:
        self.called_at.append(asyncio.get_running_loop().time())
        return self.answer

    async def makes_no_more_calls(self) -> bool:
        while not self.backend.calls.empty():
            self.backend.calls.get_nowait()
        for _ in range(20):
            await asyncio.sleep(0)
        return bool(self.backend.calls.empty())


@pytest.fixture
async def harness(backend) -> AsyncIterator[Harness]:
    harness = Harness(backend)
    yield harness
    await harness.loop.stop(0)


async def test_the_first_call_is_made_at_the_start(harness, backend):
    harness.answer |= {"promoted": 2, "pruned": 7}
    harness.loop.start()
    assert await backend.next_call("maintain_jobs") == {"force": False, "worker": "w"}
    answer = await harness.signals.maintained.next()
    assert (answer.leased, answer.promoted, answer.swept) == (True, 2, 0)
    assert answer.model_dump()["pruned"] == 7
    assert harness.claim_requested.is_set(), "the worker does not claim the promoted jobs"


async def test_a_call_that_promotes_no_job_causes_no_claim(harness):
    harness.answer |= {"pruned": 7, "aggregated": 3}
    harness.loop.start()
    await harness.signals.maintained.next()
    assert not harness.claim_requested.is_set()


async def test_the_worker_with_the_lease_waits_until_the_next_call_is_due(harness):
    harness.answer["next_in"] = 0.05
    harness.loop.start()
    for _ in range(3):
        await harness.signals.maintained.next()
    first, second, third = harness.called_at[:3]
    assert min(second - first, third - second) >= 0.049


async def test_calls_are_repeated_after_a_short_pause_while_work_remains(harness):
    harness.answer["next_in"] = 0
    harness.loop.start()
    for _ in range(5):
        await harness.signals.maintained.next()
    assert harness.called_at[4] - harness.called_at[0] >= 4 * maintenance._MIN_PAUSE - 0.001


async def test_a_wake_up_causes_a_call_at_once(harness):
    harness.loop.start()
    await harness.signals.maintained.next()
    harness.loop.wake()
    await harness.signals.maintained.next()


async def test_a_wake_up_during_a_call_causes_another_call(harness, backend):
    may_answer = asyncio.Event()

    async def answer_later(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        return harness.record_call(params)

    backend.answers["maintain_jobs"] = answer_later
    harness.loop.start()
    await backend.next_call("maintain_jobs")
    harness.loop.wake()
    may_answer.set()
    for _ in range(2):
        await harness.signals.maintained.next()


async def test_a_wake_up_makes_a_worker_without_the_lease_call_at_once(harness, backend):
    harness.answer = {"leased": False, "next_in": 60}
    harness.loop.start()
    await harness.signals.maintained.next()
    harness.loop.wake()
    assert not (await harness.signals.maintained.next()).leased
    assert len(harness.called_at) == 2


async def test_a_worker_without_the_lease_calls_again(harness):
    harness.answer = {"leased": False, "next_in": 0.01}
    harness.loop.start()
    for _ in range(3):
        await harness.signals.maintained.next()


@pytest.mark.parametrize(
    "failure", [Busy("not now"), TimeoutError(), RuntimeError("a bug"), {"no": "answer"}]
)
async def test_failures_in_a_row_are_logged_once(harness, backend, caplog, failure):
    caplog.set_level("INFO")
    harness.loop._delay = RetryDelay(first=0.001, maximum=0.002)
    failures = [failure] * 10

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            answer = failures.pop()
            if isinstance(answer, Exception):
                raise answer
            return answer
        return harness.record_call(params)

    backend.answers["maintain_jobs"] = fail_first
    harness.loop.start()
    await harness.signals.maintained.next()
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("Maintenance has failed 3 times in a row: ")
    assert second == "Maintenance works again after 10 failures"


async def test_delays_between_failures_grow(harness, backend):
    harness.loop._delay = RetryDelay(first=0.004, maximum=0.064)

    def fail(params: dict[str, Any]) -> Any:
        harness.record_call(params)
        raise Busy("not now")

    backend.answers["maintain_jobs"] = fail
    harness.loop.start()
    for _ in range(6):
        await backend.next_call("maintain_jobs")
    # Jitter shortens each delay by half at most.
    assert (
        harness.called_at[5] - harness.called_at[0] >= (0.004 + 0.008 + 0.016 + 0.032 + 0.064) / 2
    )


async def test_a_call_has_a_timeout(harness, backend, monkeypatch):
    timeouts: list[float | None] = []
    call = backend.call

    async def record_timeout(rpc: Any, timeout: float | None = None) -> Any:
        timeouts.append(timeout)
        return await call(rpc, timeout)

    monkeypatch.setattr(backend, "call", record_timeout)
    harness.loop.start()
    await harness.signals.maintained.next()
    assert timeouts == [maintenance._CALL_TIMEOUT]


async def test_a_stop_cancels_a_call_in_progress(harness, backend):
    async def never_answer(params: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    backend.answers["maintain_jobs"] = never_answer
    harness.loop.start()
    await backend.next_call("maintain_jobs")
    await asyncio.wait_for(harness.loop.stop(0), 5)
    assert await harness.makes_no_more_calls()


@pytest.mark.parametrize("leased", [True, False])
async def test_a_stop_ends_the_wait_for_the_next_call(harness, leased):
    harness.answer["leased"] = leased
    harness.loop.start()
    await harness.signals.maintained.next()
    await asyncio.wait_for(harness.loop.stop(60), 5)
    assert await harness.makes_no_more_calls()
