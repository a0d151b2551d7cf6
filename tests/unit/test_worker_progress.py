"""Progress of a job: the worker makes one call at a time, with the latest value."""

import asyncio
from typing import Any

import pytest

from picture_queue.errors import InvalidArgument
from picture_queue.worker import executor
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.context import JobContext, SyncJobContext

from .conftest import make_attempt

ProgressSender = BatchSender[tuple[int, str | None]]
INTERVAL = executor.PROGRESS_INTERVAL


def make_progress_sender(send: Any, interval: float = INTERVAL) -> ProgressSender:
    """Make a progress sender with the settings of an attempt."""
    return BatchSender(send, max_waiting=1, interval=interval)


class FakeConnection:
    """A fake connection that records the values, and responds when the test permits it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.active_calls = 0
        self.max_active_calls = 0

    async def send(self, values: list[tuple[int, str | None]]) -> None:
        self.active_calls += 1
        self.max_active_calls = max(self.max_active_calls, self.active_calls)
        (value,) = values
        self.sent.put_nowait(value)
        await self.may_respond.wait()
        self.active_calls -= 1

    async def next(self) -> tuple[int, str | None]:
        async with asyncio.timeout(5):
            return await self.sent.get()


async def test_the_first_value_is_sent_at_once():
    connection = FakeConnection()
    make_progress_sender(connection.send).put((10, "hello"))
    assert await connection.next() == (10, "hello")


async def test_only_the_latest_value_is_kept_during_a_call():
    connection = FakeConnection()
    connection.may_respond.clear()
    sender = make_progress_sender(connection.send, interval=0.0)
    for percent in range(50):
        sender.put((percent, None))
        await asyncio.sleep(0)
    assert await connection.next() == (0, None)
    assert connection.sent.empty()
    connection.may_respond.set()
    assert await connection.next() == (49, None)
    await sender.flush()
    assert connection.sent.empty()
    assert connection.max_active_calls == 1


async def test_at_most_four_values_are_sent_per_second():
    connection = FakeConnection()
    sender = make_progress_sender(connection.send)
    clock = asyncio.get_running_loop().time
    began = clock()
    sender.put((1, None))
    await connection.next()
    sender.put((2, None))
    sender.put((3, None))
    assert await connection.next() == (3, None)
    assert clock() - began >= INTERVAL


async def test_a_flush_ignores_the_rate_limit():
    connection = FakeConnection()
    sender = make_progress_sender(connection.send)
    clock = asyncio.get_running_loop().time
    began = clock()
    for percent in (1, 2):
        sender.put((percent, None))
        await sender.flush()
    assert [await connection.next(), await connection.next()] == [(1, None), (2, None)]
    assert clock() - began < INTERVAL


async def test_a_dropped_value_is_not_sent():
    connection = FakeConnection()
    sender = make_progress_sender(connection.send, interval=0.01)
    sender.put((1, None))
    await connection.next()
    sender.put((2, None))
    sender.drop()
    sender.put((3, None))
    assert await connection.next() == (3, None)


async def test_progress_is_sent_although_the_handler_never_waits(make_job):
    connection = FakeConnection()
    context = JobContext(make_attempt(make_job(), progress=make_progress_sender(connection.send)))
    for percent in range(10):
        await context.progress(percent, "a\nb\x00")
    assert await connection.next() == (0, "a b\ufffd")


async def test_a_thread_can_send_progress(make_job):
    connection = FakeConnection()
    context = SyncJobContext(
        make_attempt(make_job(), progress=make_progress_sender(connection.send))
    )
    await asyncio.to_thread(context.progress, 30, "half")
    assert await connection.next() == (30, "half")


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), "50", None])
async def test_an_invalid_percentage_is_refused(make_job, percent):
    context = JobContext(
        make_attempt(make_job(), progress=make_progress_sender(FakeConnection().send))
    )
    with pytest.raises(InvalidArgument, match=f"percent is {percent!r}, not 0 to 100"):
        await context.progress(percent)


async def test_sending_progress_after_the_end_of_the_attempt_stops_the_handler(make_job):
    attempt = make_attempt(
        make_job(), progress=make_progress_sender(FakeConnection().send), has_outcome=True
    )
    with pytest.raises(asyncio.CancelledError):
        await JobContext(attempt).progress(1)
    with pytest.raises(asyncio.CancelledError):
        SyncJobContext(attempt).progress(1)


def test_sending_progress_after_the_worker_ended_stops_the_thread(make_job):
    async def make() -> SyncJobContext:
        return SyncJobContext(
            make_attempt(make_job(), progress=make_progress_sender(FakeConnection().send))
        )

    context = asyncio.run(make())
    with pytest.raises(asyncio.CancelledError, match="worker has stopped"):
        context.progress(1)


async def test_a_context_has_the_attributes_of_its_job_and_attempt(make_job):
    job = make_job(payload={"a": 1}, attempt=2, max_attempts=5)
    attempt = make_attempt(job, progress=make_progress_sender(FakeConnection().send))
    context = JobContext(attempt)
    assert (context.id, context.lease_id, context.job) == (job.id, job.lease_id, job)
    assert (context.job_type, context.payload) == ("resize", {"a": 1})
    assert (context.attempt, context.max_attempts) == (2, 5)
    assert (context.user_id, context.generation_id) == (None, None)
    assert (context.cancel_requested, context.shutdown_requested) == (False, False)
    attempt.cancel_requested = attempt.shutdown_requested = True
    assert (context.cancel_requested, context.shutdown_requested) == (True, True)
