"""The log of an attempt: lines are sent in batches, and only the newest unsent lines are kept."""

import asyncio
import threading
from typing import Any

import pytest

from picture_queue.errors import InvalidArgument
from picture_queue.worker import JobContext, SyncJobContext, executor
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.context import log_line

from .conftest import make_attempt


def make_log_sender(
    send: Any, gather_time: float = executor.LOG_INTERVAL
) -> BatchSender[dict[str, Any]]:
    """Make a log sender with the settings of an attempt."""
    return BatchSender(
        send, executor.MAX_LOG_LINES, gather_time=gather_time, batch_size=executor.LOG_BATCH
    )


class FakeConnection:
    """A fake connection that records the lines, and responds when the test permits it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[list[str]] = asyncio.Queue()
        self.may_respond = asyncio.Event()
        self.may_respond.set()

    async def send(self, lines: list[dict[str, Any]]) -> None:
        self.sent.put_nowait([line["message"] for line in lines])
        await self.may_respond.wait()

    async def next(self) -> list[str]:
        async with asyncio.timeout(5):
            return await self.sent.get()


@pytest.fixture
def connection():
    return FakeConnection()


@pytest.fixture
def log(connection):
    return make_log_sender(connection.send)


def write(log: BatchSender[dict[str, Any]], *messages: str) -> None:
    for message in messages:
        log.put(log_line(message, "info"))


async def test_lines_are_collected_into_one_call(connection):
    log = make_log_sender(connection.send, gather_time=0.02)
    write(log, "a", "b")
    assert connection.sent.empty()
    await asyncio.sleep(0)
    write(log, "c")
    assert await connection.next() == ["a", "b", "c"]
    assert log.has_unsent  # The response has not arrived yet.
    write(log, "d")
    assert await connection.next() == ["d"]


async def test_fifty_lines_are_sent_at_once(connection):
    log = make_log_sender(connection.send, gather_time=3600)
    numbers = [str(n) for n in range(51)]
    write(log, *numbers)
    assert await connection.next() == numbers[:50]
    assert connection.sent.empty()
    await log.flush()
    assert await connection.next() == ["50"]
    assert not log.has_unsent


async def test_the_newest_lines_are_kept_while_nothing_can_be_sent(log, connection):
    connection.may_respond.clear()
    write(log, *(str(n) for n in range(50)))
    await connection.next()
    write(log, *(str(n) for n in range(1000)))
    connection.may_respond.set()
    assert await connection.next() == [str(n) for n in range(800, 1000)]
    await log.flush()
    assert connection.sent.empty()


async def test_dropped_lines_are_not_sent(log, connection):
    write(log, "a")
    log.drop()
    assert not log.has_unsent
    await log.flush()
    assert connection.sent.empty()


async def test_sync_and_async_handlers_can_write_log_lines(make_job, log, connection):
    JobContext(make_attempt(make_job(), log=log)).log("from the loop")
    context = SyncJobContext(make_attempt(make_job(), log=log))
    thread = threading.Thread(target=context.log, args=("from a thread", "error"))
    thread.start()
    thread.join()
    await asyncio.sleep(0)
    await log.flush()
    assert await connection.next() == ["from the loop", "from a thread"]


@pytest.mark.parametrize("context_class", [JobContext, SyncJobContext])
async def test_writing_after_the_end_of_the_attempt_stops_the_handler(make_job, log, context_class):
    context = context_class(make_attempt(make_job(), log=log, has_outcome=True))
    with pytest.raises(asyncio.CancelledError):
        context.log("too late")


def test_an_unknown_level_is_refused():
    with pytest.raises(InvalidArgument, match="level is 'loud'"):
        log_line("a", "loud")  # type: ignore[arg-type]


def test_a_log_line_is_truncated_and_its_unstorable_characters_are_replaced():
    assert len(log_line("x" * 5000, "debug")["message"]) == 2000
    line = log_line("a\nb\x00", "debug")
    assert line == {"at": line["at"], "level": "debug", "message": "a\nb\ufffd"}
    assert log_line(ValueError("any object"), "error")["message"] == "any object"
