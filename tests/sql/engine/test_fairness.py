"""The order of claims: fair shares, weights, aging, and limit keys without capacity."""

from typing import Any
from uuid import UUID

import pytest

from .conftest import JOB_TYPE


async def enable_fair_sharing(db: Any) -> None:
    await db.value("select set_queue($1, $2)", db.queue, {"fair_share": True})


async def enqueue(db: Any, tenant: str, n: int) -> None:
    job = {"job_type": "sql-resize", "queue": db.queue, "options": {"tenant": tenant}}
    await db.value("select enqueue_jobs($1)", [job] * n)


async def run_jobs(db: Any, n: int, at_once: int = 1) -> list[str]:
    """Claim and complete the next n jobs; return their tenants in the order of their starts."""
    started: list[str] = []
    while len(started) < n:
        jobs = await db.claim(min(at_once, n - len(started)))
        assert jobs, started
        tenants = await db.rows(
            "select tenant from unnest($1::uuid[]) with ordinality as c (id, i) "
            "join job_queue j using (id) order by c.i", [UUID(job["id"]) for job in jobs],
        )  # fmt: skip
        started += [row["tenant"] for row in tenants]
        items = [
            {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "completed"}
            for job in jobs
        ]
        await db.value("select report_jobs($1)", items)
    return started


@pytest.mark.parametrize("earlier_starts", [0, 300])
async def test_ten_jobs_of_a_small_tenant_are_among_the_next_thirty_starts(db, earlier_starts):
    await enable_fair_sharing(db)
    await enqueue(db, "large", 10_000)
    await run_jobs(db, earlier_starts, 50)
    await enqueue(db, "small", 10)
    assert (await run_jobs(db, 30)).count("small") == 10


@pytest.mark.parametrize("at_once", [1, 10])
async def test_weights_of_three_to_one_give_starts_of_three_to_one(db, at_once):
    await enable_fair_sharing(db)
    await db.value("select set_tenant('gold', 3)")
    for tenant in ("plain", "gold"):
        await enqueue(db, tenant, 1000)
    share = (await run_jobs(db, 1000, at_once)).count("gold") / 1000
    assert abs(share - 0.75) <= 0.05 * 0.75  # a tolerance of 5 %


async def test_a_tenant_without_jobs_accumulates_no_turns(db):
    await enable_fair_sharing(db)
    await enqueue(db, "steady", 400)
    await run_jobs(db, 200, 50)
    await enqueue(db, "late", 200)
    assert 45 <= (await run_jobs(db, 100)).count("late") <= 55


async def test_a_released_job_gives_its_tenant_no_extra_turn(db):
    await enable_fair_sharing(db)
    await enqueue(db, "first", 20)
    await enqueue(db, "second", 20)
    for job in await db.claim(4):
        await db.report(job, "released")
    assert 9 <= (await run_jobs(db, 20)).count("first") <= 11


async def test_aging_raises_the_priority_of_waiting_jobs(db):
    await db.value("select set_queue($1, $2)", db.queue, {"aging_seconds": 60})
    old = await db.enqueue(priority=0)
    await db.pass_time(100)  # raises the priority by 100 / 60
    low = await db.enqueue(priority=1)
    high = await db.enqueue(priority=2)
    assert [job["id"] for job in await db.claim(3)] == [str(high), str(old), str(low)]


async def test_a_worker_claims_from_queues_by_weight(db):
    await db.value("select setseed(0.5)")
    other = f"{db.queue}-b"
    for queue in (db.queue, other):
        job = {"job_type": "sql-resize", "queue": queue}
        await db.value("select enqueue_jobs($1)", [job] * 1000)
    counts = {db.queue: 0, other: 0}
    for _ in range(100):
        jobs = await db.value(
            "select claim_jobs('w1', $1, array['sql-resize'], 10, weights => $2)",
            [db.queue, other], [3.0, 1.0],
        )  # fmt: skip
        for job in jobs:
            counts[job["queue"]] += 1
    assert sum(counts.values()) == 1000
    assert abs(counts[db.queue] / 1000 - 0.75) <= 0.05 * 0.75


async def test_both_halves_of_a_large_claim_follow_the_weights(db):
    await db.value("select setseed(0.5)")
    other = f"{db.queue}-b"
    for queue in (db.queue, other):
        job = {"job_type": "sql-resize", "queue": queue}
        await db.value("select enqueue_jobs($1)", [job] * 400)
    jobs = await db.value(
        "select claim_jobs('w1', $1, array['sql-resize'], 400, weights => $2)",
        [db.queue, other], [1.0, 3.0],
    )  # fmt: skip
    # A worker runs the jobs in this order and may release the last ones without running them.
    assert len(jobs) == 400
    for part in (jobs[:200], jobs[200:]):
        assert 120 < [job["queue"] for job in part].count(other) < 180


# While any transaction holds a snapshot (as autovacuum does), a claim cannot mark the index entries
# of dead rows as dead.
NO_SNAPSHOT = (
    "select not exists (select from pg_stat_activity where pid <> pg_backend_pid() "
    "and coalesce(backend_xid, backend_xmin) is not null)"
)


async def test_ten_thousand_jobs_of_a_full_key_do_not_delay_jobs_of_another_key(clients, until):
    full, other = clients.key(1), clients.key(2)
    await clients.first.value("select set_limit($1, max_running => 1)", full)
    await clients.first.enqueue(*[{"options": {"limit_keys": [full]}}] * 10_000)
    await clients.first.enqueue(*[{"options": {"limit_keys": [other]}}] * 10)
    # A claim reads 5,000 jobs at most, and sets the jobs of the full key to blocked.
    claims = [len(await clients.first.claim(10)) for _ in range(3)]
    assert sum(claims) == 1 + 10
    await clients.first.enqueue(*[{"options": {"limit_keys": [other]}}] * 10)
    await until(lambda: clients.first.value(NO_SNAPSHOT))
    await clients.first.claim(1)  # marks the index entries of the blocked jobs as dead
    async with clients.first.connection.transaction():
        visited = "select pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass)"
        before = await clients.first.value(visited)
        assert len(await clients.first.claim(5)) == 5
        assert await clients.first.value(visited) - before <= 50
    assert {job["job_type"] for job in await clients.first.claim(10)} == {JOB_TYPE}
