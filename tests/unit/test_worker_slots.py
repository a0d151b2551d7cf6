"""Slots: the demand for jobs, held jobs, and jobs that wait for their confirmation."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.worker import slots as module
from picture_queue.worker.slots import Lease, Slots


@pytest.fixture
async def returned():
    return asyncio.Queue()


@pytest.fixture
async def slots(returned):
    made = Slots(10, returned.put_nowait)
    yield made
    made.release_unstarted()


@pytest.fixture
def clock(monkeypatch):
    """The clock of leases and claims. The test sets it."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def lease_of(slots: Slots, job: Any, age: float = 0.0) -> Lease:
    """A lease that was granted some seconds ago."""
    lease = Lease(job, time.monotonic() - age)
    slots.add(lease)
    return lease


class FakeAttempt:
    """The attributes of an attempt that slots use."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.has_outcome = False


def run(slots: Slots, job: Any) -> Any:
    attempt: Any = FakeAttempt(job)
    slots.assign_slot(lease_of(slots, job), attempt)
    return attempt


def finish(slots: Slots, attempt: Any) -> None:
    slots.free_slot(attempt.job)
    slots.drop_lease(attempt.job)


async def test_the_demand_is_the_number_of_free_slots(slots, claimed):
    assert slots.demand() == 10
    attempt = run(slots, claimed())
    assert slots.demand() == 9
    finish(slots, attempt)
    assert slots.demand() == 10


@pytest.mark.parametrize(
    ("count", "seconds", "ahead"),
    [
        (10, 10.0, 0),  # Slow jobs, like the generation of a picture.
        (9, 0.001, 0),  # The sample is too small.
        (10, 0.5, 5),  # Quick jobs, like HTTP requests.
        (20, 0.25, 20),
        (10_000, 0.25, module.MAX_CLAIM),
    ],
)
async def test_the_number_of_held_jobs_follows_the_completion_rate(
    slots, claimed, clock, count, seconds, ahead
):
    attempts = [run(slots, claimed()) for _ in range(min(count, 10))]
    clock.seconds += seconds
    for attempt in attempts:
        finish(slots, attempt)
    slots._ended = count
    assert slots.demand() == min(10 + ahead, 1000)


async def test_ten_completions_are_enough_to_estimate_the_rate(slots, claimed, clock):
    attempts = [run(slots, claimed()) for _ in range(10)]
    clock.seconds += 0.001
    for attempt in attempts:
        finish(slots, attempt)
    assert slots.demand() == 170


async def test_quick_jobs_are_held_even_if_each_claim_returned_one(slots, claimed, clock):
    """The time between a claim and its response does not count towards the rate."""
    for _ in range(10):
        assert slots.demand() == 10
        slots.restart_measurement()
        attempt = run(slots, claimed())
        clock.seconds += 0.001
        finish(slots, attempt)
        clock.seconds += 0.3
    assert slots.demand() == 170


async def test_the_rate_is_measured_anew_after_each_claim(slots, claimed, clock):
    for seconds, demand in ((0.25, 20), (2.5, 11), (0.25, 20)):
        slots.restart_measurement()
        attempts = [run(slots, claimed()) for _ in range(10)]
        clock.seconds += seconds
        for attempt in attempts:
            finish(slots, attempt)
        assert slots.demand() == demand


async def test_there_is_no_demand_while_many_jobs_are_held(slots, claimed, clock):
    for _ in range(10):
        run(slots, claimed())
    slots.restart_measurement()
    slots._ended = 100
    clock.seconds += 0.25
    assert slots.demand() == 100
    for _ in range(51):
        slots.hold(lease_of(slots, claimed()))
    assert slots.demand() == 0
    slots.pop_held()
    assert slots.demand() == 50


async def test_unwritten_outcomes_reduce_the_demand(slots, claimed, clock):
    slots.restart_measurement()
    attempts = [run(slots, claimed()) for _ in range(20)]
    clock.seconds += 20
    for attempt in attempts[:19]:
        slots.free_slot(attempt.job)
    assert slots.demand() == 9
    slots.free_slot(attempts[19].job)
    assert slots.demand() == 0
    slots.drop_lease(attempts[0].job)
    assert slots.demand() == 10


async def test_there_is_no_demand_before_a_pause_is_written(slots, claimed, returned):
    attempt, held = run(slots, claimed()), claimed()
    slots.hold(lease_of(slots, held))
    slots.pause_claims(attempt.job)
    assert await returned.get() is held, "the held jobs must wait as well"
    slots.free_slot(attempt.job)
    assert slots.demand() == 0
    slots.drop_lease(attempt.job)
    assert slots.demand() == 10


async def test_an_outcome_that_waits_for_a_lock_does_not_reduce_the_demand(slots, claimed, clock):
    slots.restart_measurement()
    attempts = [run(slots, claimed()) for _ in range(20)]
    clock.seconds += 20
    slots.pause_claims(attempts[0].job)
    for attempt in attempts:
        slots.free_slot(attempt.job)
    assert slots.demand() == 0
    for attempt in attempts:
        slots.mark_locked(attempt.job)
    assert slots.demand() == 10
    for attempt in attempts:
        slots.drop_lease(attempt.job)
    assert slots.demand() == 10


async def test_held_jobs_start_in_the_order_of_the_claim(slots, claimed):
    leases = [lease_of(slots, claimed()) for _ in range(3)]
    for lease in leases:
        slots.hold(lease)
    assert [slots.pop_held() for _ in leases] == leases
    assert slots.pop_held() is None


async def test_a_job_that_is_held_too_long_is_released(
    slots, claimed, returned, clock, monkeypatch
):
    """The timer started with the first held job, but each job has its own time."""
    monkeypatch.setattr(module, "MAX_HELD_SECONDS", 0.05)
    early, late = Lease(claimed(), 0.0), Lease(claimed(), 0.0)
    slots.add(early)
    slots.hold(early)
    clock.seconds = 0.04
    assert slots.pop_held() is early
    slots.add(late)
    slots.hold(late)
    clock.seconds = 0.08
    await asyncio.sleep(0.1)
    assert returned.empty()
    clock.seconds = 0.09
    async with asyncio.timeout(5):
        assert await returned.get() is late.job
    assert slots.pop_held() is None


async def test_releasing_held_jobs_keeps_those_that_wait_for_their_confirmation(
    slots, claimed, returned, monkeypatch
):
    """Release held jobs while a confirmation takes long, as on a slow connection."""
    monkeypatch.setattr(module, "MAX_HELD_SECONDS", 0.01)
    waiting, held = lease_of(slots, claimed()), claimed()
    slots.assign_slot(waiting, None)
    slots.hold(lease_of(slots, held))
    async with asyncio.timeout(5):
        assert await returned.get() is held
    assert slots.is_waiting(waiting)
    assert returned.empty()


async def test_a_held_job_with_an_expired_lease_is_neither_started_nor_released(
    slots, claimed, returned, caplog
):
    past, held = claimed(lease_seconds=5), claimed(lease_seconds=60)
    for job in (past, held):
        slots.hold(lease_of(slots, job, age=10))
    assert slots.pop_held().job is held
    assert slots.find(past.key) is None, "its lease is not extended"
    for job in (past, held):
        slots.hold(lease_of(slots, job, age=10))
    slots.release_unstarted()
    assert returned.get_nowait() is held
    assert returned.empty()
    assert caplog.text.count("Dropped 1 jobs that were claimed ahead") == 2


async def test_a_held_job_with_a_lost_lease_is_not_started(slots, claimed):
    lease = lease_of(slots, claimed())
    slots.hold(lease)
    slots.drop_lease(lease.job)
    assert slots.pop_held() is None


async def test_a_job_is_held_for_at_most_a_third_of_its_lease(slots, claimed, returned):
    job = claimed(lease_seconds=0.3)
    slots.hold(lease_of(slots, job))
    async with asyncio.timeout(0.9):
        assert await returned.get() is job


async def test_a_job_that_waits_for_its_confirmation_occupies_a_slot(slots, claimed, returned):
    lease = lease_of(slots, claimed())
    slots.assign_slot(lease, None)
    assert (slots.free, slots.demand()) == (9, 9)
    assert slots.leases() == [lease]
    assert slots.is_waiting(lease)
    slots.assign_slot(lease, FakeAttempt(lease.job))
    assert (slots.free, slots.is_waiting(lease)) == (9, False)


@pytest.mark.parametrize("end", ["release", "drop"])
async def test_a_slot_becomes_free_if_the_job_does_not_start(slots, claimed, returned, end):
    lease = lease_of(slots, claimed())
    slots.assign_slot(lease, None)
    if end == "drop":
        slots.drop_lease(lease.job)
    else:
        slots.release_unstarted()
        assert await returned.get() is lease.job
    assert slots.free == 10
    assert slots.leases() == [], "a heartbeat would confirm a start that never comes"


async def test_a_newer_lease_frees_the_slot_of_an_unconfirmed_older_one(slots, claimed):
    older = lease_of(slots, claimed())
    slots.assign_slot(older, None)
    slots.add(Lease(claimed(id=older.job.key), 0.0))
    assert (slots.free, slots.is_waiting(older)) == (10, False)


async def test_a_newer_lease_of_a_job_replaces_the_older_one(slots, claimed):
    older = lease_of(slots, claimed())
    again = claimed(id=older.job.key)
    assert slots.add(Lease(again, 0.0)) is older
    slots.drop_lease(older.job)
    assert slots.find(again.key).job is again
    slots.drop_lease(again)
    assert slots.find(again.key) is None


async def test_a_job_with_an_outcome_needs_no_confirmation_of_its_start(slots, claimed, clock):
    attempt = run(slots, claimed(lease_seconds=30))
    lease = slots.find(attempt.job.key)
    lease.confirm_at = lease.confirmed_at + 0.1
    assert lease.due_at == lease.confirm_at
    attempt.has_outcome = True
    # Like every lease, it is due for a heartbeat after a third of its length.
    assert lease.due_at == lease.confirmed_at + 10


async def test_a_short_lease_is_released_in_time_after_a_long_one(slots, claimed, returned):
    long, short = claimed(lease_seconds=60), claimed(lease_seconds=0.6)
    for job in (long, short):
        slots.hold(lease_of(slots, job))
    async with asyncio.timeout(10):
        assert {await returned.get(), await returned.get()} == {long, short}
