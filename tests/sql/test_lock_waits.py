"""Calls of operators do not wait without a bound for a transaction that somebody left open."""

import asyncio

import asyncpg
import pytest

from tests.databases import connect

CALLS = (
    "set_queue('held', '{\"max_attempts\": 5}')",
    "set_queue('held', '{\"fair_share\": true}')",
    "pause_queue('held')",
    "resume_queue('held')",
    "drain_queue('held')",
    "set_setting('{\"max_attempts\": 5}')",
)
#: Their jobs belong to batches that are locked, which are counted later.
CANCELS = ("purge_queue('children')", "change_jobs('cancel', '{\"queue\": \"others\"}')")


@pytest.fixture
async def held(own_database):
    """A database in which an open transaction holds a queue, the settings, and a batch."""
    one = await connect(own_database)
    await one.fetchval("select set_queue('held')")
    for queue in ("children", "others"):
        await one.fetchval("select enqueue_batch($1)", [{"job_type": "t", "queue": queue}])
    await one.execute("begin")
    for table in ("queue", "setting", "batch"):
        await one.fetch(f"select * from picture_queue.{table} for update")
    yield own_database, one
    if one.is_in_transaction():
        await one.execute("rollback")
    await one.execute("delete from job_queue")
    await one.close(timeout=5)


async def refusal(url, call):
    connection = await connect(url)
    try:
        await connection.fetchval(f"select {call}")
    except asyncpg.PostgresError as error:
        # The caller's own setting is back.
        assert await connection.fetchval("show lock_timeout") == "0"
        return call, error.sqlstate, error.message.split(":")[0]
    finally:
        await connection.close(timeout=5)
    return call, None, None


async def test_calls_of_operators_are_refused_as_busy(held):
    url, _ = held
    answers = await asyncio.gather(*(refusal(url, call) for call in CALLS))
    assert answers == [(call, "PT503", "PQ_BUSY") for call in CALLS]


async def test_jobs_of_a_locked_batch_are_cancelled_and_counted_later(held):
    url, holder = held
    answers = await asyncio.gather(*(refusal(url, call) for call in CANCELS))
    assert answers == [(call, None, None) for call in CANCELS]
    other = await connect(url)
    try:
        jobs = await other.fetch("select status, batch_id from job_queue")
        assert [job["status"] for job in jobs] == ["cancelled", "cancelled"]
        counted = "select sum(cancelled) from picture_queue.batch where id = any ($1)"
        batches = [job["batch_id"] for job in jobs]
        await other.fetchval("select picture_queue._do_due_steps(1000, true)")
        assert await other.fetchval(counted, batches) == 0, "they are locked"
        assert await other.fetchval("select count(*) from picture_queue.failed_step") == 0
        await holder.execute("rollback")
        await other.execute("update picture_queue.follow_up set due_at = '-infinity'")
        await other.fetchval("select picture_queue._do_due_steps(1000, true)")
        assert await other.fetchval(counted, batches) == 2
    finally:
        await other.close(timeout=5)
