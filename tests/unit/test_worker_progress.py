"""Progress: one call at a time, with the latest value."""

import asyncio
from typing import Any

import pytest

from picture_queue.errors import InvalidArgument
from picture_queue.worker import executor
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.context import JobContext, SyncJobContext

from .conftest import attempt_of

Progress = BatchSender[tuple[int, str | None]]
INTERVAL = executor.PROGRESS_INTERVAL


def progress_of(send: Any, interval: float = INTERVAL) -> Progress:
    """Make a sender of progress as attempts do."""
    return BatchSender(send, keep=1, interval=interval)


class FakeConnection:
    """A fake connection that records the values, and answers when a test permits it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self.under_way = 0
        self.peak = 0

    async def send(self, values: list[tuple[int, str | None]]) -> None:
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        (value,) = values
        self.sent.put_nowait(value)
        await self.open.wait()
        self.under_way -= 1

    async def next(self) -> tuple[int, str | None]:
        async with asyncio.timeout(5):
            return await self.sent.get()


async def test_the_first_value_is_sent_at_once():
    connection = FakeConnection()
    progress_of(connection.send).put((10, "hello"))
    assert await connection.next() == (10, "hello")


async def test_only_the_latest_value_is_kept_during_a_call():
    connection = FakeConnection()
    connection.open.clear()
    reports = progress_of(connection.send, interval=0.0)
    for percent in range(50):
        reports.put((percent, None))
        await asyncio.sleep(0)
    assert await connection.next() == (0, None)
    assert connection.sent.empty()
    connection.open.set()
    assert await connection.next() == (49, None)
    await reports.flush()
    assert connection.sent.empty()
    assert connection.peak == 1


async def test_at_most_four_values_are_sent_per_second():
    connection = FakeConnection()
    reports = progress_of(connection.send)
    clock = asyncio.get_running_loop().time
    began = clock()
    reports.put((1, None))
    await connection.next()
    reports.put((2, None))
    reports.put((3, None))
    assert await connection.next() == (3, None)
    assert clock() - began >= INTERVAL


async def test_a_flush_ignores_the_rate_limit():
    connection = FakeConnection()
    reports = progress_of(connection.send)
    clock = asyncio.get_running_loop().time
    began = clock()
    for percent in (1, 2):
        reports.put((percent, None))
        await reports.flush()
    assert [await connection.next(), await connection.next()] == [(1, None), (2, None)]
    assert clock() - began < INTERVAL


async def test_a_dropped_value_is_not_sent():
    connection = FakeConnection()
    reports = progress_of(connection.send, interval=0.01)
    reports.put((1, None))
    await connection.next()
    reports.put((2, None))
    reports.drop()
    reports.put((3, None))
    assert await connection.next() == (3, None)


async def test_progress_is_sent_although_the_handler_never_waits(claimed):
    connection = FakeConnection()
    context = JobContext(attempt_of(claimed(), progress=progress_of(connection.send)))
    for percent in range(10):
        await context.progress(percent, "a\nb\x00")
    assert await connection.next() == (0, "a b\ufffd")


async def test_a_thread_can_send_progress(claimed):
    connection = FakeConnection()
    context = SyncJobContext(attempt_of(claimed(), progress=progress_of(connection.send)))
    await asyncio.to_thread(context.progress, 30, "half")
    assert await connection.next() == (30, "half")


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), "50", None])
async def test_progress_is_a_percentage(claimed, percent):
    context = JobContext(attempt_of(claimed(), progress=progress_of(FakeConnection().send)))
    with pytest.raises(InvalidArgument, match=f"percent is {percent!r}, not 0 to 100"):
        await context.progress(percent)


async def test_sending_progress_after_the_end_of_the_attempt_stops_the_handler(claimed):
    attempt = attempt_of(claimed(), progress=progress_of(FakeConnection().send), has_outcome=True)
    with pytest.raises(asyncio.CancelledError):
        await JobContext(attempt).progress(1)
    with pytest.raises(asyncio.CancelledError):
        SyncJobContext(attempt).progress(1)


def test_sending_progress_after_the_worker_ended_stops_the_thread(claimed):
    async def make() -> SyncJobContext:
        return SyncJobContext(attempt_of(claimed(), progress=progress_of(FakeConnection().send)))

    context = asyncio.run(make())
    with pytest.raises(asyncio.CancelledError, match="worker has stopped"):
        context.progress(1)


async def test_the_repr_of_a_context_shows_its_job(claimed):
    job = claimed(payload={"a": 1}, attempt=2, max_attempts=5)
    attempt = attempt_of(job, progress=progress_of(FakeConnection().send))
    context = JobContext(attempt)
    assert (context.id, context.lease_id, context.job) == (job.id, job.lease_id, job)
    assert (context.job_type, context.payload) == ("resize", {"a": 1})
    assert (context.attempt, context.max_attempts) == (2, 5)
    assert (context.user_id, context.generation_id) == (None, None)
    assert (context.cancel_requested, context.shutdown_requested) == (False, False)
    attempt.cancel_requested = attempt.shutdown_requested = True
    assert (context.cancel_requested, context.shutdown_requested) == (True, True)
