"""Limits are exact for every kind of key, and freed slots go to the blocked jobs."""

from typing import Any
from uuid import UUID, uuid4

import pytest

USER = UUID(int=7)
KEYS = {
    "a queue": ("queue:{queue}", {}),
    "the whole project": ("global", {}),
    "a user": (f"user:{USER}", {"user_id": USER}),
    "each user": ("user:*", {"user_id": USER}),
    "a job type": ("type:sql-resize", {}),
    "a key": ("k:1", {"options": {"limit_keys": ["k:1"]}}),
    "each key of a kind": ("k:*", {"options": {"limit_keys": ["k:1"]}}),
}


async def set_limit(db: Any, key: str, running: int | None = None, **rate: Any) -> None:
    await db.value(
        "select set_limit($1, $2, $3, $4)", key, running, rate.get("rate"), rate.get("period")
    )


async def enqueue(db: Any, n: int, *keys: str, **fields: Any) -> list[str]:
    options = {"limit_keys": [*keys]}
    return [str(await db.enqueue(options=options, **fields)) for _ in range(n)]


async def report(db: Any, jobs: list[dict[str, Any]], outcome: str = "completed") -> None:
    for job in jobs:
        assert (await db.report(job, outcome, delay_seconds=3600))["outcome"] == "ok"


@pytest.mark.parametrize("key_kind", KEYS)
async def test_no_more_jobs_than_the_limit_run_at_once(db, key_kind):
    key, fields = KEYS[key_kind]
    # Jobs that other tests left running would count for the key `global`.
    await db.run("delete from job_queue where status = 'processing'")
    await set_limit(db, key.format(queue=db.queue), 2)
    ids = [str(await db.enqueue(**fields)) for _ in range(7)]
    done: list[str] = []
    running = await db.claim(10)
    while running:
        assert len(running) == min(2, 7 - len(done))
        assert await db.claim(10) == []
        await report(db, running[:1])
        done.append(running.pop(0)["id"])
        running += await db.claim(10)
    assert done == ids


async def test_each_key_of_a_kind_has_its_own_limit(db):
    await set_limit(db, "k:*", 1)
    await set_limit(db, "k:2", 2)
    for key in ("k:1", "k:2", "k:3"):
        await enqueue(db, 3, key)
    assert len(await db.claim(20)) == 1 + 2 + 1


async def test_a_job_under_two_keys_needs_capacity_in_both(db):
    await set_limit(db, "k:1", 1)
    await set_limit(db, "k:2", 2)
    await enqueue(db, 1, "k:1")
    both = await enqueue(db, 2, "k:1", "k:2")
    (first,) = await db.claim(10)
    await enqueue(db, 2, "k:2")
    assert len(await db.claim(10)) == 2
    await report(db, [first])
    assert await db.claim(10) == [], "k:1 has capacity, but k:2 is full"
    blocked = await db.rows("select distinct hold from job_queue where id = any($1)",
                            [UUID(job_id) for job_id in both])  # fmt: skip
    assert blocked == [{"hold": "blocked"}]


@pytest.mark.parametrize("outcome", ["failed", "snoozed", "parked", "cancelled"])
async def test_every_end_of_an_attempt_frees_its_slot(db, outcome):
    await set_limit(db, "k:1", 1)
    ids = await enqueue(db, 2, "k:1")
    (first,) = await db.claim(10)
    await report(db, [first], outcome)
    assert [job["id"] for job in await db.claim(10)] == [ids[1]]


async def test_an_expired_lease_frees_its_slot(db):
    await set_limit(db, "k:1", 1)
    ids = await enqueue(db, 2, "k:1", max_attempts=1)
    await db.claim(10)
    await db.pass_time(31)
    assert [job["id"] for job in await db.claim(10)] == [ids[1]]


async def test_a_rate_holds_in_every_sliding_window(db):
    await set_limit(db, "k:1", rate=3, period=60)
    await enqueue(db, 20, "k:1")
    await report(db, await db.claim(1))
    await db.pass_time(30)
    await report(db, await db.claim(10))
    # The first start was 30 s ago, the other two are recent; each start counts for 60 s.
    for wait, starts in ((29, 0), (2, 1), (28, 0), (2, 2), (500, 3), (0.1, 0)):
        await db.pass_time(wait)
        jobs = await db.claim(10)
        assert len(jobs) == starts, (wait, starts)
        await report(db, jobs)


async def test_a_snoozed_attempt_counts_for_the_rate(db):
    """Before it snoozed, the attempt may have called the service that the rate protects."""
    await set_limit(db, "k:1", rate=1, period=60)
    await enqueue(db, 2, "k:1")
    await report(db, await db.claim(10), "snoozed")
    assert await db.claim(10) == []


async def test_a_raised_limit_lets_more_jobs_start(db):
    await set_limit(db, "k:1", 1)
    await enqueue(db, 5, "k:1")
    assert len(await db.claim(10)) == 1
    await set_limit(db, "k:1", 4)
    assert len(await db.claim(10)) == 3


async def test_a_lowered_limit_starts_no_job_until_enough_have_ended(db):
    await set_limit(db, "k:1", 3)
    await enqueue(db, 6, "k:1")
    running = await db.claim(10)
    await set_limit(db, "k:1", 1)
    for job in running[:2]:
        await report(db, [job])
        assert await db.claim(10) == []
    await report(db, running[2:])
    assert len(await db.claim(10)) == 1


async def test_a_new_limit_counts_running_jobs(db):
    await enqueue(db, 5, "k:1")
    running = await db.claim(2)
    await set_limit(db, "k:1", 2)
    await enqueue(db, 1, "k:2")
    assert len(await db.claim(10)) == 1, "until they are counted, only jobs of other keys start"
    await db.maintain()
    assert await db.claim(10) == []
    await report(db, running[:1])
    assert len(await db.claim(10)) == 1


async def test_a_deleted_limit_unblocks_all_its_jobs(db):
    await set_limit(db, "k:1", 1)
    await enqueue(db, 40, "k:1")
    assert len(await db.claim(40)) == 1
    await db.value("select delete_limit('k:1')")
    assert len(await db.claim(40)) == 39


@pytest.mark.parametrize("resume_at", [None, 60])
async def test_a_paused_key_starts_nothing_until_it_is_resumed(db, resume_at):
    await enqueue(db, 2, "k:1")
    (free,) = await enqueue(db, 1, "k:2")
    await db.value(
        "select pause_key('k:1', picture_queue._now() + make_interval(secs => $1))", resume_at
    )
    running = await db.claim(10)
    assert [job["id"] for job in running] == [free]
    await report(db, running)
    await db.pass_time(59)
    assert await db.claim(10) == []
    await db.pass_time(2)
    if resume_at is None:
        assert await db.claim(10) == []
        await db.value("select resume_key('k:1')")
    assert len(await db.claim(10)) == 2


async def test_jobs_over_their_limit_do_not_block_jobs_of_another_key(db):
    await set_limit(db, "k:1", 1)
    await enqueue(db, 300, "k:1", priority=5)
    unlimited = await enqueue(db, 5, "k:2")
    claimed = [job["id"] for job in await db.claim(6)]
    assert claimed[1:] == unlimited


async def test_unblocked_jobs_start_by_priority(db):
    await set_limit(db, "k:1", 1)
    await enqueue(db, 1, "k:1")
    low = await enqueue(db, 1, "k:1", priority=0)
    high = await enqueue(db, 1, "k:1", priority=9)
    order: list[str] = []
    while jobs := await db.claim(10):
        order.append(jobs[0]["id"])
        await report(db, jobs)
    assert order.index(high[0]) < order.index(low[0])


async def test_unlimited_jobs_take_no_slots(db):
    await set_limit(db, f"k:{uuid4()}", 1)
    await enqueue(db, 3, "k:1")
    jobs = await db.claim(10)
    assert await db.rows(
        "select from job_queue where id = any($1) and slots is not null",
        [UUID(job["id"]) for job in jobs],
    ) == []  # fmt: skip
