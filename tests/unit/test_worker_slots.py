"""The slots of a worker.

They compute how many jobs the next claim requests (the demand), and hold jobs that were claimed
ahead and jobs whose start the database has not confirmed yet.
"""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.worker import slots as module
from picture_queue.worker.slots import Lease, Slots


@pytest.fixture
async def released():
    """A queue of the jobs that the slots release."""
    return asyncio.Queue()


@pytest.fixture
async def slots(released):
    slots = Slots(10, released.put_nowait)
    yield slots
    slots.release_unstarted()


@pytest.fixture
def clock(monkeypatch):
    """A fake monotonic clock of the slots; a test sets its attribute `seconds`."""
    fake_clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: fake_clock.seconds))
    return fake_clock


def add_lease(slots: Slots, job: Any, age: float = 0.0) -> Lease:
    """Add a lease that was granted `age` seconds ago."""
    lease = Lease(job, time.monotonic() - age)
    slots.add(lease)
    return lease


class FakeAttempt:
    """The attributes of an attempt that slots use."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.has_outcome = False


def start_attempt(slots: Slots, job: Any) -> Any:
    attempt: Any = FakeAttempt(job)
    slots.assign_slot(add_lease(slots, job), attempt)
    return attempt


def finish_attempt(slots: Slots, attempt: Any) -> None:
    slots.free_slot(attempt.job)
    slots.drop_lease(attempt.job)


async def test_the_demand_is_the_number_of_free_slots(slots, make_job):
    assert slots.demand() == 10
    attempt = start_attempt(slots, make_job())
    assert slots.demand() == 9
    finish_attempt(slots, attempt)
    assert slots.demand() == 10


@pytest.mark.parametrize(
    ("count", "seconds", "ahead"),
    [
        (10, 10.0, 0),  # Slow jobs, like the generation of a picture.
        (9, 0.001, 0),  # Too few jobs have ended to estimate the rate.
        (10, 0.5, 5),  # Quick jobs, like HTTP requests.
        (20, 0.25, 20),
        (10_000, 0.25, module.MAX_CLAIM),
    ],
)
async def test_the_number_of_jobs_claimed_ahead_follows_the_completion_rate(
    slots, make_job, clock, count, seconds, ahead
):
    attempts = [start_attempt(slots, make_job()) for _ in range(min(count, 10))]
    clock.seconds += seconds
    for attempt in attempts:
        finish_attempt(slots, attempt)
    slots._ended = count
    assert slots.demand() == min(10 + ahead, 1000)


async def test_ten_completions_are_enough_to_estimate_the_rate(slots, make_job, clock):
    attempts = [start_attempt(slots, make_job()) for _ in range(10)]
    clock.seconds += 0.001
    for attempt in attempts:
        finish_attempt(slots, attempt)
    assert slots.demand() == 170


async def test_quick_jobs_are_claimed_ahead_even_if_each_claim_returned_a_single_job(
    slots, make_job, clock
):
    """The 0.3 seconds between a claim and its response must not reduce the measured rate."""
    for _ in range(10):
        assert slots.demand() == 10
        slots.restart_measurement()
        attempt = start_attempt(slots, make_job())
        clock.seconds += 0.001
        finish_attempt(slots, attempt)
        clock.seconds += 0.3
    assert slots.demand() == 170


async def test_the_rate_is_measured_anew_after_each_claim(slots, make_job, clock):
    for seconds, demand in ((0.25, 20), (2.5, 11), (0.25, 20)):
        slots.restart_measurement()
        attempts = [start_attempt(slots, make_job()) for _ in range(10)]
        clock.seconds += seconds
        for attempt in attempts:
            finish_attempt(slots, attempt)
        assert slots.demand() == demand


async def test_there_is_no_demand_while_many_jobs_are_held(slots, make_job, clock):
    for _ in range(10):
        start_attempt(slots, make_job())
    slots.restart_measurement()
    slots._ended = 100
    clock.seconds += 0.25
    assert slots.demand() == 100
    for _ in range(51):
        slots.hold(add_lease(slots, make_job()))
    assert slots.demand() == 0
    slots.pop_held()
    assert slots.demand() == 50


async def test_unwritten_outcomes_reduce_the_demand(slots, make_job, clock):
    slots.restart_measurement()
    attempts = [start_attempt(slots, make_job()) for _ in range(20)]
    clock.seconds += 20
    for attempt in attempts[:19]:
        slots.free_slot(attempt.job)
    assert slots.demand() == 9
    slots.free_slot(attempts[19].job)
    assert slots.demand() == 0
    slots.drop_lease(attempts[0].job)
    assert slots.demand() == 10


async def test_there_is_no_demand_before_the_database_has_stored_a_pause(slots, make_job, released):
    attempt, held = start_attempt(slots, make_job()), make_job()
    slots.hold(add_lease(slots, held))
    slots.pause_claims(attempt.job)
    assert await released.get() is held, "a held job would start during the pause"
    slots.free_slot(attempt.job)
    assert slots.demand() == 0
    slots.drop_lease(attempt.job)
    assert slots.demand() == 10


async def test_an_outcome_that_waits_for_a_lock_does_not_reduce_the_demand(slots, make_job, clock):
    slots.restart_measurement()
    attempts = [start_attempt(slots, make_job()) for _ in range(20)]
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


async def test_held_jobs_start_in_the_order_of_the_claim(slots, make_job):
    leases = [add_lease(slots, make_job()) for _ in range(3)]
    for lease in leases:
        slots.hold(lease)
    assert [slots.pop_held() for _ in leases] == leases
    assert slots.pop_held() is None


async def test_a_job_that_is_held_too_long_is_released(
    slots, make_job, released, clock, monkeypatch
):
    """A single timer serves all held jobs, but the deadline of each job is its own."""
    monkeypatch.setattr(module, "MAX_HELD_SECONDS", 0.05)
    early, late = Lease(make_job(), 0.0), Lease(make_job(), 0.0)
    slots.add(early)
    slots.hold(early)
    clock.seconds = 0.04
    assert slots.pop_held() is early
    slots.add(late)
    slots.hold(late)
    clock.seconds = 0.08
    await asyncio.sleep(0.1)
    assert released.empty()
    clock.seconds = 0.09
    async with asyncio.timeout(5):
        assert await released.get() is late.job
    assert slots.pop_held() is None


async def test_a_job_that_waits_for_its_confirmation_is_not_released_with_the_held_jobs(
    slots, make_job, released, monkeypatch
):
    """On a slow connection, a confirmation takes longer than the worker holds a job."""
    monkeypatch.setattr(module, "MAX_HELD_SECONDS", 0.01)
    waiting, held = add_lease(slots, make_job()), make_job()
    slots.assign_slot(waiting, None)
    slots.hold(add_lease(slots, held))
    async with asyncio.timeout(5):
        assert await released.get() is held
    assert slots.is_waiting(waiting)
    assert released.empty()


async def test_a_held_job_with_an_expired_lease_is_neither_started_nor_released(
    slots, make_job, released, caplog
):
    expired, held = make_job(lease_seconds=5), make_job(lease_seconds=60)
    for job in (expired, held):
        slots.hold(add_lease(slots, job, age=10))
    assert slots.pop_held().job is held
    assert slots.find(expired.id_text) is None, "a heartbeat would extend the lease"
    for job in (expired, held):
        slots.hold(add_lease(slots, job, age=10))
    slots.release_unstarted()
    assert released.get_nowait() is held
    assert released.empty()
    assert caplog.text.count("Dropped 1 jobs that were claimed ahead") == 2


async def test_a_held_job_with_a_lost_lease_is_not_started(slots, make_job):
    lease = add_lease(slots, make_job())
    slots.hold(lease)
    slots.drop_lease(lease.job)
    assert slots.pop_held() is None


async def test_a_job_is_held_for_at_most_a_third_of_its_lease(slots, make_job, released):
    job = make_job(lease_seconds=0.3)
    slots.hold(add_lease(slots, job))
    async with asyncio.timeout(0.9):
        assert await released.get() is job


async def test_a_job_that_waits_for_its_confirmation_occupies_a_slot(slots, make_job, released):
    lease = add_lease(slots, make_job())
    slots.assign_slot(lease, None)
    assert (slots.free, slots.demand()) == (9, 9)
    assert slots.leases() == [lease]
    assert slots.is_waiting(lease)
    slots.assign_slot(lease, FakeAttempt(lease.job))
    assert (slots.free, slots.is_waiting(lease)) == (9, False)


@pytest.mark.parametrize("end", ["release", "drop"])
async def test_a_slot_becomes_free_if_the_job_does_not_start(slots, make_job, released, end):
    lease = add_lease(slots, make_job())
    slots.assign_slot(lease, None)
    if end == "drop":
        slots.drop_lease(lease.job)
    else:
        slots.release_unstarted()
        assert await released.get() is lease.job
    assert slots.free == 10
    assert slots.leases() == [], "a heartbeat would confirm a start that never happens"


async def test_a_newer_lease_frees_the_slot_of_an_unconfirmed_older_lease(slots, make_job):
    older = add_lease(slots, make_job())
    slots.assign_slot(older, None)
    slots.add(Lease(make_job(id=older.job.id_text), 0.0))
    assert (slots.free, slots.is_waiting(older)) == (10, False)


async def test_a_newer_lease_of_a_job_replaces_the_older_lease(slots, make_job):
    older = add_lease(slots, make_job())
    claimed_again = make_job(id=older.job.id_text)
    assert slots.add(Lease(claimed_again, 0.0)) is older
    slots.drop_lease(older.job)
    assert slots.find(claimed_again.id_text).job is claimed_again
    slots.drop_lease(claimed_again)
    assert slots.find(claimed_again.id_text) is None


async def test_a_job_with_an_outcome_needs_no_confirmation_of_its_start(slots, make_job, clock):
    attempt = start_attempt(slots, make_job(lease_seconds=30))
    lease = slots.find(attempt.job.id_text)
    lease.confirm_at = lease.renewed_at + 0.1
    assert lease.due_at == lease.confirm_at
    attempt.has_outcome = True
    # A heartbeat is due after a third of the lease, which has 30 seconds.
    assert lease.due_at == lease.renewed_at + 10


async def test_a_job_with_a_short_lease_is_released_in_time_although_a_longer_lease_came_first(
    slots, make_job, released
):
    with_long_lease, with_short_lease = make_job(lease_seconds=60), make_job(lease_seconds=0.6)
    for job in (with_long_lease, with_short_lease):
        slots.hold(add_lease(slots, job))
    async with asyncio.timeout(10):
        assert {await released.get(), await released.get()} == {with_long_lease, with_short_lease}
