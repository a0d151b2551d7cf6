"""Progress: one call at a time, with the latest value."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.errors import InvalidArgument
from picture_queue.worker import executor
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.context import JobContext, SyncJobContext

Progress = BatchSender[tuple[int, str | None]]
INTERVAL = executor.PROGRESS_INTERVAL


def progress_of(send: Any, interval: float = INTERVAL) -> Progress:
    """Make a sender of progress as attempts do."""
    return BatchSender(send, keep=1, interval=interval)


def attempt_of(job: Any, progress: Progress, *, settled: bool = False) -> Any:
    return SimpleNamespace(
        job=job,
        progress=progress,
        settled=settled,
        stop_reason=None,
        cancel_requested=False,
        shutdown_requested=False,
    )


class Wire:
    """A connection that keeps the values it is sent, and answers when a test permits it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self.under_way = 0
        self.most = 0

    async def send(self, values: list[tuple[int, str | None]]) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        (value,) = values
        self.sent.put_nowait(value)
        await self.open.wait()
        self.under_way -= 1

    async def next(self) -> tuple[int, str | None]:
        async with asyncio.timeout(5):
            return await self.sent.get()


async def test_the_first_value_goes_out_at_once():
    wire = Wire()
    progress_of(wire.send).put((10, "hello"))
    assert await wire.next() == (10, "hello")


async def test_during_a_call_only_the_latest_value_is_kept():
    wire = Wire()
    wire.open.clear()
    reports = progress_of(wire.send, interval=0.0)
    for percent in range(50):
        reports.put((percent, None))
        await asyncio.sleep(0)
    assert await wire.next() == (0, None)
    assert wire.sent.empty()
    wire.open.set()
    assert await wire.next() == (49, None)
    await reports.flush()
    assert wire.sent.empty()
    assert wire.most == 1


async def test_values_are_four_a_second():
    wire = Wire()
    reports = progress_of(wire.send)
    clock = asyncio.get_running_loop().time
    began = clock()
    reports.put((1, None))
    await wire.next()
    reports.put((2, None))
    reports.put((3, None))
    assert await wire.next() == (3, None)
    assert clock() - began >= INTERVAL


async def test_a_flush_does_not_wait_for_its_turn():
    wire = Wire()
    reports = progress_of(wire.send)
    clock = asyncio.get_running_loop().time
    began = clock()
    for percent in (1, 2):
        reports.put((percent, None))
        await reports.flush()
    assert [await wire.next(), await wire.next()] == [(1, None), (2, None)]
    assert clock() - began < INTERVAL


async def test_a_dropped_value_is_not_sent():
    wire = Wire()
    reports = progress_of(wire.send, interval=0.01)
    reports.put((1, None))
    await wire.next()
    reports.put((2, None))
    reports.drop()
    reports.put((3, None))
    assert await wire.next() == (3, None)


async def test_a_handler_that_never_waits_lets_its_progress_out(claimed):
    wire = Wire()
    context = JobContext(attempt_of(claimed(), progress_of(wire.send)))
    for percent in range(10):
        await context.progress(percent, "a\nb\x00")
    assert await wire.next() == (0, "a b\ufffd")


async def test_progress_comes_out_of_a_thread(claimed):
    wire = Wire()
    context = SyncJobContext(attempt_of(claimed(), progress_of(wire.send)))
    await asyncio.to_thread(context.progress, 30, "half")
    assert await wire.next() == (30, "half")


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), "50", None])
async def test_progress_is_percent(claimed, percent):
    context = JobContext(attempt_of(claimed(), progress_of(Wire().send)))
    with pytest.raises(InvalidArgument, match=f"percent is {percent!r}, not 0 to 100"):
        await context.progress(percent)


async def test_a_handler_that_goes_on_after_the_end_is_stopped(claimed):
    attempt = attempt_of(claimed(), progress_of(Wire().send), settled=True)
    with pytest.raises(asyncio.CancelledError):
        await JobContext(attempt).progress(1)
    with pytest.raises(asyncio.CancelledError):
        SyncJobContext(attempt).progress(1)


def test_a_thread_that_outlives_the_worker_is_stopped(claimed):
    async def make() -> SyncJobContext:
        return SyncJobContext(attempt_of(claimed(), progress_of(Wire().send)))

    context = asyncio.run(make())
    with pytest.raises(asyncio.CancelledError, match="worker has stopped"):
        context.progress(1)


async def test_a_context_shows_its_job(claimed):
    job = claimed(payload={"a": 1}, attempt=2, max_attempts=5)
    attempt = attempt_of(job, progress_of(Wire().send))
    context = JobContext(attempt)
    assert (context.id, context.lease_id, context.job) == (job.id, job.lease_id, job)
    assert (context.job_type, context.payload) == ("resize", {"a": 1})
    assert (context.attempt, context.max_attempts) == (2, 5)
    assert (context.user_id, context.generation_id) == (None, None)
    assert (context.cancel_requested, context.shutdown_requested) == (False, False)
    attempt.cancel_requested = attempt.shutdown_requested = True
    assert (context.cancel_requested, context.shutdown_requested) == (True, True)
