"""Calls that locked rows, many waiting jobs and invalid values of other jobs do not affect."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from .database import EVENT, QUEUE, TYPE, IsolationDatabase, RefusedCall

pytestmark = pytest.mark.timeout(120)

KEY = "model:flux"
KEYED: dict[str, Any] = {"options": {"limit_keys": [KEY]}}
WAIT_TIMEOUT = 3  # Seconds. A call that takes longer is assumed to wait for a lock.


async def refusal(db: IsolationDatabase, sql: str, *args: Any) -> str:
    with pytest.raises(RefusedCall) as caught:
        await db.try_call(sql, *args)
    return str(caught.value)


async def test_jobs_are_returned_in_the_order_of_the_call(db):
    """The job with k = 1 is inserted last, because its unique key is freed during the call."""

    def job(k: int, **options: Any) -> dict[str, Any]:
        return {"job_type": TYPE, "queue": QUEUE, "payload": {"k": k}, "options": options}

    unique = {"unique": {"by": ["k"], "period_seconds": 1}}
    await db.call("select enqueue_jobs($1)", [job(1, **unique)])
    await db.pass_time(1.5)
    created = await db.call("select enqueue_jobs($1)", [job(1, **unique), job(2), job(3)])
    rows = [await db.call("select get_job($1::text::uuid)", item["job_id"]) for item in created]
    assert [row["payload"]["k"] for row in rows] == [1, 2, 3]


async def test_a_locked_table_of_the_archive_does_not_stop_maintenance(db):
    await db.call("select set_setting('{\"archive\": true}')")
    old = [await db.enqueue(TYPE, {}) for _ in range(40)]
    await db.claim()
    await db.report(old)
    await db.pass_time(400 * 86400)
    await db.open_transaction("lock table picture_queue.archive in access exclusive mode")
    delayed = await db.enqueue(TYPE, {"options": {"delay_seconds": 1}})
    await db.pass_time(2)
    for _ in range(3):
        await asyncio.wait_for(db.maintain(1), WAIT_TIMEOUT)
    assert [job["id"] for job in await db.claim()] == [delayed]


async def test_many_types_of_jobs_that_wait_for_a_key_delay_no_claim(db):
    await db.call("select set_limit($1, 1000)", KEY)
    await db.owner.execute(
        "insert into job_queue (job_type, queue, status, hold, blocked_on, limit_keys) "
        f"select 'z' || g % 100, 'elsewhere', 'pending', 'blocked', '{KEY}', '{{{KEY}}}' "
        "from generate_series(1, 20000) g"
    )
    await db.owner.execute(f"insert into picture_queue.freed_key (key, n) values ('{KEY}', 0)")
    await db.enqueue(TYPE, {})
    assert len(await asyncio.wait_for(db.claim(), WAIT_TIMEOUT)) == 1
    left = await db.owner.fetchval("select count(*) from job_queue where hold = 'blocked'")
    assert 18_000 <= left < 20_000


async def test_a_locked_generation_delays_neither_sweep_nor_claim(db):
    job_of_generation = await db.enqueue(TYPE, {"generation_id": str(uuid4())})
    await db.owner.execute(
        "insert into generations (id, job_id, model_id, prompt) "
        f"select generation_id, id, 'm', 'x' from job_queue where id::text = '{job_of_generation}'"
    )
    other_jobs = [await db.enqueue(TYPE, {}) for _ in range(3)]
    await db.open_transaction("select from generations for update")
    claimed = await asyncio.wait_for(db.claim(), WAIT_TIMEOUT)
    assert {job["id"] for job in claimed} == set(other_jobs)


@pytest.mark.parametrize(
    ("sql", "args"),
    [
        ("select pause_queue($1, '290000-01-01')", [QUEUE]),
        ("select pause_key($1, '290000-01-01')", [KEY]),
    ],
)
async def test_a_pause_until_a_time_that_clients_cannot_read_is_refused(db, sql, args):
    await db.enqueue(TYPE, {})
    assert "resume_at" in await refusal(db, sql, *args)


async def test_a_result_that_clients_cannot_read_fails_only_its_job(db):
    odd, plain = [await db.enqueue(TYPE, {}) for _ in range(2)]
    await db.claim()
    odd_lease, plain_lease = db.leases([odd]), db.leases([plain])
    outcomes = (
        f'[{{"job_id": "{odd}", "lease_id": "{odd_lease[0]["lease_id"]}", "outcome": "completed", '
        f'"result": {{"n": 1e5000}}}}, {{"job_id": "{plain}", '
        f'"lease_id": "{plain_lease[0]["lease_id"]}", "outcome": "completed", "result": 1}}]'
    )
    answer = await db.owner.fetchval(f"select report_jobs('{outcomes}')::text")
    assert answer.count('"ok"') == 2
    assert await db.states([odd, plain]) == ["failed", "completed"]
    error = await db.owner.fetchval("select error from job_queue where id::text = $1", odd)
    assert "beyond 1e308" in error


@pytest.mark.parametrize(
    ("field", "value"), [("event", "a\nb"), ("pause_key", "a*"), ("pause_key", "a\nb")]
)
async def test_a_name_in_an_outcome_that_other_calls_refuse_is_refused(db, field, value):
    job = await db.enqueue(TYPE, {})
    await db.claim()
    outcome = {**db.leases([job])[0], "outcome": "parked", field: value}
    assert field in await refusal(db, "select report_jobs($1)", [outcome])


async def test_a_locked_row_of_a_worker_delays_no_claim(db):
    await db.owner.execute(
        "insert into job_queue (job_type, queue, rank) "
        f"select 'unknown', '{QUEUE}', -5 from generate_series(1, 40000)"
    )
    await db.enqueue(TYPE, {})
    await db.claim()
    await db.enqueue(TYPE, {})
    await db.open_transaction("select from picture_queue.worker for update")
    assert len(await asyncio.wait_for(db.claim(), WAIT_TIMEOUT)) == 1


@pytest.mark.parametrize("sql", [f"select purge_queue('{QUEUE}')", f"select send_event('{EVENT}')"])
async def test_calls_that_must_see_concurrent_commits_refuse_fixed_snapshots(db, sql):
    await db.enqueue(TYPE, {})
    session = await db.session("reader", default_transaction_isolation="repeatable read")
    with pytest.raises(RefusedCall, match="isolation"):
        await session.try_call(sql)
