"""Jobs claimed ahead: how many, in which order, and back when they wait too long."""

import asyncio

import pytest

from picture_queue.worker import prefetch
from picture_queue.worker.prefetch import Prefetch


@pytest.fixture
async def returned():
    return asyncio.Queue()


@pytest.fixture
async def ahead(returned):
    return Prefetch(10, returned.put_nowait)


def learn(ahead, duration, round_trip):
    for _ in range(200):
        ahead.lasted(duration)
        ahead.answered(round_trip)


async def test_nothing_is_known_at_first(ahead):
    assert ahead.worth_having == 0
    assert ahead.worth_a_call == 1


@pytest.mark.parametrize(
    ("duration", "round_trip", "worth_having"),
    [
        (10.0, 0.02, 0),  # a picture
        (0.2, 0.02, 1),  # a request
        (0.01, 0.02, 39),
        (0.00001, 0.02, prefetch.MOST),
    ],
)
async def test_as_many_are_held_as_end_in_two_round_trips(
    ahead, duration, round_trip, worth_having
):
    learn(ahead, duration, round_trip)
    assert abs(ahead.worth_having - worth_having) <= 1
    assert ahead.worth_having <= prefetch.MOST


async def test_few_do_not_make_claims_of_their_own(ahead):
    learn(ahead, 0.2, 0.02)
    assert ahead.worth_a_call == 1
    learn(ahead, 0.0001, 0.02)
    assert ahead.worth_a_call > 1


async def test_they_start_in_their_order(ahead, claimed):
    jobs = [claimed() for _ in range(3)]
    for job in jobs:
        ahead.put(job, asyncio.get_running_loop().time())
    assert len(ahead) == 3
    assert [ahead.next()[0] for _ in jobs] == jobs
    assert ahead.next() is None
    ahead.clear()


async def test_who_waits_too_long_goes_back_and_no_more_are_fetched(
    ahead, claimed, returned, monkeypatch
):
    monkeypatch.setattr(prefetch, "PATIENCE", 0.02)
    learn(ahead, 0.0001, 0.01)
    now = asyncio.get_running_loop().time()
    early, late = claimed(), claimed()
    ahead.put(early, now)
    ahead.put(late, now + 0.03)
    assert [await returned.get(), await returned.get()] == [early, late]
    assert len(ahead) == 0
    assert ahead.worth_having < 20


async def test_a_short_lease_shortens_the_wait(ahead, claimed, returned, monkeypatch):
    monkeypatch.setattr(prefetch, "PATIENCE", 3600)
    job = claimed(lease_seconds=30)
    ahead.put(job, asyncio.get_running_loop().time() - 9.9)
    assert await returned.get() == job


async def test_a_job_held_past_its_lease_is_neither_started_nor_given_back(
    ahead, claimed, returned, caplog
):
    now = asyncio.get_running_loop().time()
    past, held = claimed(lease_seconds=5), claimed(lease_seconds=60)
    for job in (past, held):
        ahead.put(job, now - 10)
    assert ahead.next() == (held, now - 10)
    for job in (past, held):
        ahead.put(job, now - 10)
    ahead.clear()
    for job in (past, held):
        ahead.put(job, now - 10)
    assert [await returned.get() for _ in range(2)] == [held, held]
    assert returned.empty()
    assert len(ahead) == 0
    assert caplog.text.count("Dropped 1 jobs that were held past their lease") == 3


async def test_what_waits_at_the_end_goes_back(ahead, claimed, returned):
    jobs = [claimed() for _ in range(2)]
    for job in jobs:
        ahead.put(job, asyncio.get_running_loop().time())
    ahead.clear()
    assert [returned.get_nowait() for _ in jobs] == jobs
    assert ahead.worth_having == 0
