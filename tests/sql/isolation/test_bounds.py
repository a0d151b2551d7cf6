"""Calls while many rows are locked, or while the update of a row raises an error.

The tests of this file check that a call neither waits for each row nor fails for all rows.
"""

import asyncio
from typing import Any

import pytest

from .database import QUEUE, TYPE, IsolationDatabase, RefusedCall

pytestmark = pytest.mark.timeout(120)

ENQUEUE_MANY = """select enqueue_jobs((select jsonb_agg(
    jsonb_build_object('job_type', 'many', 'queue', $1::text) || $3::jsonb)
    from generate_series(1, $2::integer)))"""
CLAIM = "select claim_jobs('w', array[$1], array[$2, $3], $4::integer, $5::real)"


async def add_trigger(db: IsolationDatabase, job_type: str, code: str) -> None:
    await db.owner.execute(
        f"""create or replace function refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now' using errcode = '{code}'; end $$;
        create trigger refuse before update on job_queue for each row
        when (old.job_type = '{job_type}') execute function refuse()"""
    )


@pytest.mark.parametrize("step", ["promote", "expire", "sweep"])
async def test_many_locked_jobs_do_not_delay_the_maintenance_of_other_jobs(db, step):
    fields: dict[str, dict[str, Any]] = {
        "promote": {"options": {"delay_seconds": 1}},
        "expire": {"options": {"expires_in_seconds": 1}},
        "sweep": {},
    }
    await db.call(ENQUEUE_MANY, "many", 2000, fields[step])
    if step == "sweep":
        for _ in range(2):
            await db.call(CLAIM, "many", "many", "many", 1000, 1)
    await db.pass_time(2)
    holder = await db.open_transaction("select from job_queue where queue = 'many' for update")
    await db.call(ENQUEUE_MANY, "free", 1, fields[step])
    if step == "sweep":
        await db.call(CLAIM, "free", "many", "many", 1, 1)
    await db.pass_time(2)
    await db.maintain()
    state = await db.owner.fetchrow("select status, hold from job_queue where queue = 'free'")
    await holder.close()
    assert tuple(state) == (("failed" if step == "expire" else "pending"), None)


@pytest.mark.parametrize("code", ["PT403", "55P03", "40001", "22P02"])
async def test_an_error_for_one_job_does_not_affect_other_jobs_of_the_call(db, code):
    async def claim() -> list[dict[str, Any]]:
        return await db.call(CLAIM, "mixed", "many", "bad-one", 3, 60)

    def leases(jobs: list[dict[str, Any]]) -> list[dict[str, str]]:
        return [db.lease(job) for job in jobs]

    for job_type in ("many", "bad-one", "many"):
        await db.call("select enqueue_job($1, queue => 'mixed')", job_type)
    claimed = await claim()
    await add_trigger(db, "bad-one", code)
    assert (await db.call("select heartbeat_jobs('w', $1)", leases(claimed)))["lost"] == []
    await db.owner.execute("drop trigger refuse on job_queue")
    outcomes = [lease | {"outcome": "released"} for lease in leases(claimed)]
    await db.call("select report_jobs($1)", outcomes)
    await add_trigger(db, "bad-one", code)
    assert [job["job_type"] for job in await claim()] == ["many", "many"]


@pytest.mark.parametrize("call", ["report_progress($1, $2, 5)", "log_job($1, $2, '[]')"])
async def test_handlers_of_locked_jobs_hold_no_connection_for_long(db, call):
    """Claims and reports need the few connections that a worker or the API has."""
    await db.enqueue(TYPE, {})
    [job] = await db.claim()
    holder = await db.open_transaction("select from job_queue for update")
    async with asyncio.timeout(30):  # 25 waits of two seconds would take 50 seconds.
        for _ in range(25):
            with pytest.raises(RefusedCall, match="PQ_BUSY"):
                await db.try_call(f"select {call}", job["id"], job["lease_id"])
    await holder.close()


async def test_all_leases_are_extended_while_the_table_is_locked(db):
    await db.call(ENQUEUE_MANY, "many", 400, {})
    held = await db.call(CLAIM, "many", "many", "many", 400, 60)
    # `create index` takes this lock.
    holder = await db.open_transaction("lock table job_queue in share mode")
    answer = await db.call("select heartbeat_jobs('w', $1)", [db.lease(job) for job in held])
    extended = await db.owner.fetchval("select count(*) from picture_queue.lease_extension")
    await holder.close()
    assert (answer, extended) == ({"cancel": [], "lost": []}, 400)


async def test_all_running_jobs_count_under_a_new_limit(db):
    await db.call(ENQUEUE_MANY, "many", 2000, {})
    for _ in range(2):
        await db.call(CLAIM, "many", "many", "many", 750, 600)
    await db.call("select set_limit('queue:many', max_running => 1200)")
    await db.maintain()
    await db.pass_time(2)
    await db.maintain()
    (limit,) = await db.call("select list_limits()")
    assert limit["running"] == 1500
    assert await db.call(CLAIM, "many", "many", "many", 10, 600) == []


async def test_a_locked_failed_step_does_not_stop_maintenance(db):
    await db.call(ENQUEUE_MANY, "bad", 1, {"options": {"delay_seconds": 1}})
    await add_trigger(db, "many", "P0001")
    await db.pass_time(2)
    await db.maintain()
    holder = await db.open_transaction("select from picture_queue.failed_step for update")
    job = await db.call(
        "select enqueue_job($1, queue => $2, options => '{\"delay_seconds\": 1}')", TYPE, QUEUE
    )
    await db.pass_time(10)
    await db.maintain()
    state = await db.owner.fetchval("select hold from job_queue where id = $1", job)
    await holder.close()
    assert state is None
