"""The log of an attempt: lines are sent in batches, and the newest are kept."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.errors import InvalidArgument
from picture_queue.worker import JobContext, SyncJobContext, executor
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.context import log_line


def log_of(send: Any, gather: float = executor.LOG_INTERVAL) -> BatchSender[dict[str, Any]]:
    """Make a sender of lines as attempts do."""
    return BatchSender(send, executor.LOG_KEPT, gather=gather, batch=executor.LOG_BATCH)


def attempt_of(job: Any, log: BatchSender[dict[str, Any]], *, settled: bool = False) -> Any:
    return SimpleNamespace(
        job=job,
        log=log,
        settled=settled,
        stop_reason=None,
        cancel_requested=False,
        shutdown_requested=False,
    )


class Wire:
    """A connection that keeps the lines it is sent, and answers when a test permits it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[list[str]] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, lines: list[dict[str, Any]]) -> None:
        self.sent.put_nowait([line["message"] for line in lines])
        await self.open.wait()

    async def next(self) -> list[str]:
        async with asyncio.timeout(5):
            return await self.sent.get()


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def log(wire):
    return log_of(wire.send)


def write(log: BatchSender[dict[str, Any]], *messages: str) -> None:
    for message in messages:
        log.put(log_line(message, "info"))


async def test_lines_wait_for_each_other(wire):
    log = log_of(wire.send, gather=0.02)
    write(log, "a", "b")
    assert wire.sent.empty()
    await asyncio.sleep(0)
    write(log, "c")
    assert await wire.next() == ["a", "b", "c"]
    assert log.has_unsent  # its answer is not here yet
    write(log, "d")
    assert await wire.next() == ["d"]


async def test_fifty_lines_do_not_wait(wire):
    log = log_of(wire.send, gather=3600)
    numbers = [str(n) for n in range(51)]
    write(log, *numbers)
    assert await wire.next() == numbers[:50]
    assert wire.sent.empty()
    await log.flush()
    assert await wire.next() == ["50"]
    assert not log.has_unsent


async def test_while_nothing_is_sent_the_newest_lines_are_kept(log, wire):
    wire.open.clear()
    write(log, *(str(n) for n in range(50)))
    await wire.next()
    write(log, *(str(n) for n in range(1000)))
    wire.open.set()
    assert await wire.next() == [str(n) for n in range(800, 1000)]
    await log.flush()
    assert wire.sent.empty()


async def test_lines_that_were_dropped_are_not_sent(log, wire):
    write(log, "a")
    log.drop()
    assert not log.has_unsent
    await log.flush()
    assert wire.sent.empty()


async def test_handlers_of_both_kinds_write(claimed, log, wire):
    JobContext(attempt_of(claimed(), log)).log("from the loop")
    context = SyncJobContext(attempt_of(claimed(), log))
    thread = threading.Thread(target=context.log, args=("from a thread", "error"))
    thread.start()
    thread.join()
    await asyncio.sleep(0)
    await log.flush()
    assert await wire.next() == ["from the loop", "from a thread"]


@pytest.mark.parametrize("kind", [JobContext, SyncJobContext])
async def test_a_handler_that_goes_on_after_the_end_is_stopped(claimed, log, kind):
    context = kind(attempt_of(claimed(), log, settled=True))
    with pytest.raises(asyncio.CancelledError):
        context.log("too late")


def test_a_level_is_one_of_four():
    with pytest.raises(InvalidArgument, match="level is 'loud'"):
        log_line("a", "loud")  # type: ignore[arg-type]


def test_a_line_is_made_storable():
    assert len(log_line("x" * 5000, "debug")["message"]) == 2000
    line = log_line("a\nb\x00", "debug")
    assert line == {"at": line["at"], "level": "debug", "message": "a\nb\ufffd"}
    assert log_line(ValueError("any object"), "error")["message"] == "any object"
