"""Handlers that continue after their attempt was given up."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.errors import PictureQueueError, WorkerStuck
from picture_queue.worker.stuck import StuckDetector


class Bench:
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

    async def turn(self) -> None:
        """Run the timers that are due."""
        for _ in range(3):
            await asyncio.sleep(0.001)


class FakeAttempt:
    job = SimpleNamespace(id="the-job", job_type="resize")
    ended = False


@pytest.fixture
async def bench():
    return Bench()


async def test_half_of_the_slots_are_too_many(bench, caplog):
    bench.given_up()
    await bench.turn()
    assert bench.calls == 0
    assert "The handler of job the-job (resize) still runs 0 s after" in caplog.text
    assert "1 of 4 slots are lost" in caplog.text
    bench.given_up()
    await asyncio.wait_for(bench.too_many.wait(), 5)
    bench.given_up()
    await bench.turn()
    assert bench.calls == 1, "it is said once"


async def test_one_of_one_is_too_many():
    bench = Bench(slots=1)
    bench.given_up()
    await asyncio.wait_for(bench.too_many.wait(), 5)


async def test_a_handler_that_ends_after_all_counts_no_longer(bench):
    late = bench.given_up()
    await bench.turn()
    in_time = bench.given_up()
    for attempt in (late, in_time):
        attempt.ended = True
    bench.given_up()
    await bench.turn()
    assert bench.calls == 0


async def test_at_the_end_nobody_is_watched(bench):
    bench.given_up()
    bench.given_up()
    bench.stuck.close()
    await bench.turn()
    assert bench.calls == 0
