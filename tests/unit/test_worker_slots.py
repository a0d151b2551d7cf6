"""Slots: the demand for jobs, and the jobs that are held ahead or wait for their confirmation."""

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
    """The clock of leases and claims, which the test sets."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def lease_of(slots: Slots, job: Any, age: float = 0.0) -> Lease:
    """A lease that was asked for some seconds ago."""
    lease = Lease(job, time.monotonic() - age)
    slots.add(lease)
    return lease


class FakeAttempt:
    """The part of an attempt that slots use."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.settled = False


def run(slots: Slots, job: Any) -> Any:
    attempt: Any = FakeAttempt(job)
    slots.assign_slot(lease_of(slots, job), attempt)
    return attempt


def finish(slots: Slots, attempt: Any) -> None:
    slots.free_slot(attempt.job)
    slots.drop_lease(attempt.job)


async def test_free_slots_are_in_demand(slots, claimed):
    assert slots.demand() == 10
    attempt = run(slots, claimed())
    assert slots.demand() == 9
    finish(slots, attempt)
    assert slots.demand() == 10


@pytest.mark.parametrize(
    ("count", "seconds", "ahead"),
    [
        (10, 10.0, 0),  # pictures
        (9, 0.001, 0),  # too few to tell
        (10, 0.5, 5),  # requests
        (20, 0.25, 20),
        (10_000, 0.25, module.MAX_CLAIM),
    ],
)
async def test_as_many_are_held_ahead_as_end_in_a_moment(
    slots, claimed, clock, count, seconds, ahead
):
    attempts = [run(slots, claimed()) for _ in range(min(count, 10))]
    clock.seconds += seconds
    for attempt in attempts:
        finish(slots, attempt)
    slots._ended = count
    assert slots.demand() == min(10 + ahead, 1000)


async def test_the_first_jobs_that_end_are_a_small_sample(slots, claimed, clock):
    attempts = [run(slots, claimed()) for _ in range(10)]
    clock.seconds += 0.001
    for attempt in attempts:
        finish(slots, attempt)
    assert slots.demand() == 170


async def test_quick_jobs_are_held_ahead_although_each_claim_brought_one(slots, claimed, clock):
    """The time in which the slots wait for the answer to a claim does not count."""
    for _ in range(10):
        assert slots.demand() == 10
        slots.note_answer()
        attempt = run(slots, claimed())
        clock.seconds += 0.001
        finish(slots, attempt)
        clock.seconds += 0.3
    assert slots.demand() == 170


async def test_a_rate_is_measured_anew_after_each_answer(slots, claimed, clock):
    for seconds, demand in ((0.25, 20), (2.5, 11), (0.25, 20)):
        slots.note_answer()
        attempts = [run(slots, claimed()) for _ in range(10)]
        clock.seconds += seconds
        for attempt in attempts:
            finish(slots, attempt)
        assert slots.demand() == demand


async def test_few_are_not_worth_a_claim_while_others_are_held(slots, claimed, clock):
    for _ in range(10):
        run(slots, claimed())
    slots.note_answer()
    slots._ended = 100
    clock.seconds += 0.25
    assert slots.demand() == 100
    for _ in range(51):
        slots.hold(lease_of(slots, claimed()))
    assert slots.demand() == 0
    slots.pop_held()
    assert slots.demand() == 50


async def test_outcomes_that_cannot_be_written_do_not_pile_up(slots, claimed, clock):
    slots.note_answer()
    attempts = [run(slots, claimed()) for _ in range(20)]
    clock.seconds += 20
    for attempt in attempts[:19]:
        slots.free_slot(attempt.job)
    assert slots.demand() == 9
    slots.free_slot(attempts[19].job)
    assert slots.demand() == 0
    slots.drop_lease(attempts[0].job)
    assert slots.demand() == 10


async def test_nothing_is_claimed_before_a_pause_is_written(slots, claimed, returned):
    attempt, held = run(slots, claimed()), claimed()
    slots.hold(lease_of(slots, held))
    slots.pause_claims(attempt.job)
    assert await returned.get() is held, "those behind it are to wait as well"
    slots.free_slot(attempt.job)
    assert slots.demand() == 0
    slots.drop_lease(attempt.job)
    assert slots.demand() == 10


async def test_an_outcome_that_waits_for_a_lock_holds_up_no_claims(slots, claimed, clock):
    slots.note_answer()
    attempts = [run(slots, claimed()) for _ in range(20)]
    clock.seconds += 20
    slots.pause_claims(attempts[0].job)
    for attempt in attempts:
        slots.free_slot(attempt.job)
    assert slots.demand() == 0
    for attempt in attempts:
        slots.note_locked(attempt.job)
    assert slots.demand() == 10
    for attempt in attempts:
        slots.drop_lease(attempt.job)
    assert slots.demand() == 10


async def test_held_jobs_start_in_their_order(slots, claimed):
    leases = [lease_of(slots, claimed()) for _ in range(3)]
    for lease in leases:
        slots.hold(lease)
    assert [slots.pop_held() for _ in leases] == leases
    assert slots.pop_held() is None


async def test_a_job_that_is_held_too_long_is_given_back(
    slots, claimed, returned, clock, monkeypatch
):
    """The timer is that of the job that was held first; each has its own time."""
    monkeypatch.setattr(module, "MAX_HELD", 0.05)
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


async def test_jobs_that_wait_for_their_confirmation_stay_when_held_ones_are_given_back(
    slots, claimed, returned, monkeypatch
):
    """On a slow link a confirmation takes longer than a job may be held ahead."""
    monkeypatch.setattr(module, "MAX_HELD", 0.01)
    waiting, held = lease_of(slots, claimed()), claimed()
    slots.assign_slot(waiting, None)
    slots.hold(lease_of(slots, held))
    async with asyncio.timeout(5):
        assert await returned.get() is held
    assert slots.is_waiting(waiting)
    assert returned.empty()


async def test_a_job_held_past_its_lease_is_neither_started_nor_given_back(
    slots, claimed, returned, caplog
):
    past, held = claimed(lease_seconds=5), claimed(lease_seconds=60)
    for job in (past, held):
        slots.hold(lease_of(slots, job, age=10))
    assert slots.pop_held().job is held
    assert slots.find(past.key) is None, "nobody prolongs it"
    for job in (past, held):
        slots.hold(lease_of(slots, job, age=10))
    slots.release_unstarted()
    assert returned.get_nowait() is held
    assert returned.empty()
    assert caplog.text.count("Dropped 1 jobs that were claimed ahead") == 2


async def test_a_held_job_whose_lease_is_lost_is_not_started(slots, claimed):
    lease = lease_of(slots, claimed())
    slots.hold(lease)
    slots.drop_lease(lease.job)
    assert slots.pop_held() is None


async def test_a_job_is_held_for_a_third_of_its_lease_at_most(slots, claimed, returned):
    job = claimed(lease_seconds=0.3)
    slots.hold(lease_of(slots, job))
    async with asyncio.timeout(0.9):
        assert await returned.get() is job


async def test_a_job_that_waits_for_its_confirmation_has_a_slot(slots, claimed, returned):
    lease = lease_of(slots, claimed())
    slots.assign_slot(lease, None)
    assert (slots.free, slots.demand()) == (9, 9)
    assert slots.leases() == [lease]
    assert slots.is_waiting(lease)
    slots.assign_slot(lease, FakeAttempt(lease.job))
    assert (slots.free, slots.is_waiting(lease)) == (9, False)


@pytest.mark.parametrize("end", ["release", "drop"])
async def test_a_slot_is_free_again_when_a_job_does_not_start(slots, claimed, returned, end):
    lease = lease_of(slots, claimed())
    slots.assign_slot(lease, None)
    if end == "drop":
        slots.drop_lease(lease.job)
    else:
        slots.release_unstarted()
        assert await returned.get() is lease.job
    assert slots.free == 10


async def test_a_newer_lease_frees_the_slot_of_an_older_that_was_not_confirmed(slots, claimed):
    older = lease_of(slots, claimed())
    slots.assign_slot(older, None)
    slots.add(Lease(claimed(id=older.job.key), 0.0))
    assert (slots.free, slots.is_waiting(older)) == (10, False)


async def test_a_newer_lease_of_a_job_replaces_an_older(slots, claimed):
    older = lease_of(slots, claimed())
    again = claimed(id=older.job.key)
    assert slots.add(Lease(again, 0.0)) is older
    slots.drop_lease(older.job)
    assert slots.find(again.key).job is again
    slots.drop_lease(again)
    assert slots.find(again.key) is None


async def test_a_settled_job_needs_no_confirmation_of_its_start(slots, claimed, clock):
    attempt = run(slots, claimed(lease_seconds=30))
    lease = slots.find(attempt.job.key)
    lease.confirm_at = lease.confirmed_at + 0.1
    assert lease.due_at == lease.confirm_at
    attempt.settled = True
    assert lease.due_at == lease.confirmed_at + 10  # as every lease: a third of its length


async def test_a_short_lease_is_given_back_in_time_although_a_long_one_was_held_first(
    slots, claimed, returned
):
    long, short = claimed(lease_seconds=60), claimed(lease_seconds=0.6)
    for job in (long, short):
        slots.hold(lease_of(slots, job))
    async with asyncio.timeout(10):
        assert {await returned.get(), await returned.get()} == {long, short}
