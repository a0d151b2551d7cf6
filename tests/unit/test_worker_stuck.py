"""The detector of handlers that continue after their attempt was given up."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.errors import PictureQueueError, WorkerStuck
from picture_queue.worker.stuck import StuckDetector


class Harness:
    def __init__(self, slots: int = 4) -> None:
        self.too_many = asyncio.Event()
        self.calls = 0
        self.stuck = StuckDetector(slots, 0.0, self._fail)

    def _fail(self, error: PictureQueueError) -> None:
        assert isinstance(error, WorkerStuck)
        self.calls += 1
        self.too_many.set()

    def given_up(self) -> Any:
        attempt = FakeAttempt()
        self.stuck.watch(attempt)  # type: ignore[arg-type]
        return attempt

    async def run_timers(self) -> None:
        """Run the timers that are due."""
        for _ in range(3):
            await asyncio.sleep(0.001)


class FakeAttempt:
    job = SimpleNamespace(id="the-job", job_type="resize")
    ended = False


@pytest.fixture
async def harness():
    return Harness()


async def test_the_worker_fails_when_half_of_its_slots_are_stuck(harness, caplog):
    harness.given_up()
    await harness.run_timers()
    assert harness.calls == 0
    assert "The handler of job the-job (resize) still runs 0 s after" in caplog.text
    assert "1 of 4 slots are lost" in caplog.text
    harness.given_up()
    await asyncio.wait_for(harness.too_many.wait(), 5)
    harness.given_up()
    await harness.run_timers()
    assert harness.calls == 1, "the error is reported once"


async def test_a_worker_with_one_slot_fails_when_it_is_stuck():
    harness = Harness(slots=1)
    harness.given_up()
    await asyncio.wait_for(harness.too_many.wait(), 5)


async def test_a_handler_that_ends_late_is_no_longer_counted(harness):
    late = harness.given_up()
    await harness.run_timers()
    in_time = harness.given_up()
    for attempt in (late, in_time):
        attempt.ended = True
    harness.given_up()
    await harness.run_timers()
    assert harness.calls == 0


async def test_no_handler_is_watched_after_the_close(harness):
    harness.given_up()
    harness.given_up()
    harness.stuck.close()
    await harness.run_timers()
    assert harness.calls == 0
