"""Locked rows, many waiting jobs and invalid values that must not affect other calls."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from .world import EVENT, QUEUE, TYPE, Refused, World

pytestmark = pytest.mark.timeout(120)

KEY = "model:flux"
KEYED: dict[str, Any] = {"options": {"limit_keys": [KEY]}}
WAIT_TIMEOUT = 3  # Seconds. A call that takes longer is assumed to wait for a lock.


async def refusal(world: World, sql: str, *args: Any) -> str:
    with pytest.raises(Refused) as caught:
        await world.try_call(sql, *args)
    return str(caught.value)


async def test_jobs_are_returned_in_the_order_of_the_call(world):
    """The job with k = 1 is inserted last, because its unique key is freed during the call."""

    def job(k: int, **options: Any) -> dict[str, Any]:
        return {"job_type": TYPE, "queue": QUEUE, "payload": {"k": k}, "options": options}

    unique = {"unique": {"by": ["k"], "period_seconds": 1}}
    await world.call("select enqueue_jobs($1)", [job(1, **unique)])
    await world.pass_time(1.5)
    created = await world.call("select enqueue_jobs($1)", [job(1, **unique), job(2), job(3)])
    rows = [await world.call("select get_job($1::text::uuid)", item["job_id"]) for item in created]
    assert [row["payload"]["k"] for row in rows] == [1, 2, 3]


async def test_a_locked_table_of_the_archive_does_not_stop_maintenance(world):
    await world.call("select set_setting('{\"archive\": true}')")
    old = [await world.enqueue(TYPE, {}) for _ in range(40)]
    await world.claim()
    await world.report(old)
    await world.pass_time(400 * 86400)
    await world.open_transaction("lock table picture_queue.archive in access exclusive mode")
    late = await world.enqueue(TYPE, {"options": {"delay_seconds": 1}})
    await world.pass_time(2)
    for _ in range(3):
        await asyncio.wait_for(world.maintain(1), WAIT_TIMEOUT)
    assert [job["id"] for job in await world.claim()] == [late]


async def test_many_types_of_jobs_that_wait_for_a_key_delay_no_claim(world):
    await world.call("select set_limit($1, 1000)", KEY)
    await world.owner.execute(
        "insert into job_queue (job_type, queue, status, hold, blocked_on, limit_keys) "
        f"select 'z' || g % 100, 'elsewhere', 'pending', 'blocked', '{KEY}', '{{{KEY}}}' "
        "from generate_series(1, 20000) g"
    )
    await world.owner.execute(f"insert into picture_queue.freed_key (key, n) values ('{KEY}', 0)")
    await world.enqueue(TYPE, {})
    assert len(await asyncio.wait_for(world.claim(), WAIT_TIMEOUT)) == 1
    left = await world.owner.fetchval("select count(*) from job_queue where hold = 'blocked'")
    assert 18_000 <= left < 20_000


async def test_a_locked_generation_delays_neither_sweep_nor_claim(world):
    bound = await world.enqueue(TYPE, {"generation_id": str(uuid4())})
    await world.owner.execute(
        "insert into generations (id, job_id, model_id, prompt) "
        f"select generation_id, id, 'm', 'x' from job_queue where id::text = '{bound}'"
    )
    others = [await world.enqueue(TYPE, {}) for _ in range(3)]
    await world.open_transaction("select from generations for update")
    claimed = await asyncio.wait_for(world.claim(), WAIT_TIMEOUT)
    assert {job["id"] for job in claimed} == set(others)
    assert bound not in {job["id"] for job in claimed}


@pytest.mark.parametrize(
    ("sql", "args"),
    [
        ("select pause_queue($1, '290000-01-01')", [QUEUE]),
        ("select pause_key($1, '290000-01-01')", [KEY]),
    ],
)
async def test_a_pause_until_a_time_that_clients_cannot_read_is_refused(world, sql, args):
    await world.enqueue(TYPE, {})
    assert "resume_at" in await refusal(world, sql, *args)


async def test_a_result_that_clients_cannot_read_fails_only_its_job(world):
    odd, plain = [await world.enqueue(TYPE, {}) for _ in range(2)]
    await world.claim()
    odd_lease, plain_lease = world.leases([odd]), world.leases([plain])
    outcomes = (
        f'[{{"job_id": "{odd}", "lease_id": "{odd_lease[0]["lease_id"]}", "outcome": "completed", '
        f'"result": {{"n": 1e5000}}}}, {{"job_id": "{plain}", '
        f'"lease_id": "{plain_lease[0]["lease_id"]}", "outcome": "completed", "result": 1}}]'
    )
    answer = await world.owner.fetchval(f"select report_jobs('{outcomes}')::text")
    assert answer.count('"ok"') == 2
    assert await world.states([odd, plain]) == ["failed", "completed"]
    error = await world.owner.fetchval("select error from job_queue where id::text = $1", odd)
    assert "beyond 1e308" in error


@pytest.mark.parametrize(
    ("field", "value"), [("event", "a\nb"), ("pause_key", "a*"), ("pause_key", "a\nb")]
)
async def test_names_that_no_later_call_accepts_are_refused(world, field, value):
    job = await world.enqueue(TYPE, {})
    await world.claim()
    outcome = {**world.leases([job])[0], "outcome": "parked", field: value}
    assert field in await refusal(world, "select report_jobs($1)", [outcome])


async def test_a_locked_row_of_a_worker_delays_no_claim(world):
    await world.owner.execute(
        "insert into job_queue (job_type, queue, rank) "
        f"select 'unknown', '{QUEUE}', -5 from generate_series(1, 40000)"
    )
    await world.enqueue(TYPE, {})
    await world.claim()
    await world.enqueue(TYPE, {})
    await world.open_transaction("select from picture_queue.worker for update")
    assert len(await asyncio.wait_for(world.claim(), WAIT_TIMEOUT)) == 1


@pytest.mark.parametrize("sql", [f"select purge_queue('{QUEUE}')", f"select send_event('{EVENT}')"])
async def test_calls_that_must_see_concurrent_commits_refuse_fixed_snapshots(world, sql):
    await world.enqueue(TYPE, {})
    session = await world.session("reader", default_transaction_isolation="repeatable read")
    with pytest.raises(Refused, match="isolation"):
        await session.try_call(sql)
