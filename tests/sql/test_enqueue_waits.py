"""An enqueue that waits for an open transaction raises PQ_BUSY after two seconds."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from tests.databases import connect

JOB = {"job_type": "t", "payload": {"a": 1}}


def unique(on_conflict):
    return JOB | {"options": {"unique": {"on_conflict": on_conflict}}}


def enqueue_jobs_call(*jobs):
    return "enqueue_jobs($1)", [list(jobs)]


#: For some cases, a call that is committed before the two calls of the case.
PREPARATIONS = {
    "replace": enqueue_jobs_call(unique("ignore")),
    "debounce": enqueue_jobs_call(unique("ignore")),
    "batch": ("enqueue_batch($1, batch_id => $2)", [[JOB], uuid4()]),
}
BATCH = PREPARATIONS["batch"][1][1]
ID, GENERATION = uuid4(), str(uuid4())

#: For each case, the call in an open transaction, and the call that must wait for it.
CASES = {
    "queue": (("enqueue_job('t', queue => 'new')", []), ("enqueue_job('t', queue => 'new')", [])),
    "queues": (
        ("enqueue_job('t', queue => 'new')", []),
        enqueue_jobs_call({"job_type": "t", "queue": "new"}, {"job_type": "t", "queue": "newer"}),
    ),
    "job_id": (("enqueue_job('t', job_id => $1)", [ID]), ("enqueue_job('t', job_id => $1)", [ID])),
    "idempotency_key": (
        ("enqueue_job('t', idempotency_key => 'k')", []),
        ("enqueue_job('t', idempotency_key => 'k')", []),
    ),
    "unique": (enqueue_jobs_call(unique("ignore")), enqueue_jobs_call(unique("ignore"))),
    "replace": (
        ("cancel_job((select id from job_queue limit 1))", []),
        enqueue_jobs_call(unique("replace")),
    ),
    "debounce": (
        ("cancel_job((select id from job_queue limit 1))", []),
        enqueue_jobs_call(unique("debounce")),
    ),
    "batch": (
        enqueue_jobs_call(JOB | {"options": {"batch_id": str(BATCH)}}),
        enqueue_jobs_call(JOB | {"options": {"batch_id": str(BATCH)}}),
    ),
    "new_batch": (
        ("enqueue_batch($1, batch_id => $2)", [[JOB], ID]),
        ("enqueue_batch($1, batch_id => $2)", [[JOB], ID]),
    ),
    "generation": (
        ("start_generation('a boat', options => $1)", [{"generation_id": GENERATION}]),
        ("start_generation('a boat', options => $1)", [{"generation_id": GENERATION}]),
    ),
    "schedule": (
        ("run_schedule('s', $1)", [ID]),
        ("run_schedule('s', $1)", [ID]),
    ),
}


@pytest.fixture
async def connections(own_database):
    one, two = await connect(own_database), await connect(own_database)
    await one.fetchval("select set_schedule('s', $1)", {"every_seconds": 3600, "job_type": "t"})
    yield one, two
    for connection in (one, two):
        if connection.is_in_transaction():
            await connection.execute("rollback")
    await one.execute("delete from job_queue")
    await one.execute("delete from picture_queue.batch")
    await one.execute("delete from picture_queue.queue where name like 'new%'")
    await one.execute("delete from generations")
    for connection in (one, two):
        await connection.close(timeout=5)


async def call_function(connection, call):
    text, values = call
    return await connection.fetchval(f"select {text}", *values)


async def refusal(connection, call):
    try:
        await call_function(connection, call)
    except asyncpg.PostgresError as error:
        return error.sqlstate, error.message.split(":")[0]
    return None


async def prepare(connection, name):
    if name in PREPARATIONS:
        await call_function(connection, PREPARATIONS[name])


@pytest.mark.parametrize("name", CASES)
async def test_an_enqueue_that_waits_for_an_open_transaction_raises_busy(connections, name):
    one, other = connections
    first_call, call = CASES[name]
    await prepare(one, name)
    await one.execute("begin")
    await call_function(one, first_call)
    async with asyncio.timeout(30):
        assert await refusal(other, call) == ("PT429", "PQ_BUSY")
    # The lock_timeout of the caller is restored, and the repeated call succeeds.
    assert await other.fetchval("show lock_timeout") == "0"
    await one.execute("commit")
    assert await refusal(other, call) is None


@pytest.mark.parametrize("name", CASES)
async def test_an_enqueue_with_an_older_snapshot_succeeds_or_is_refused(connections, name):
    one, other = connections
    first_call, call = CASES[name]
    await prepare(one, name)
    await other.execute("begin isolation level repeatable read")
    await other.fetchval("select count(*) from job_queue")
    await call_function(one, first_call)
    # In the same transaction a retry fails again: its snapshot does not show the conflicting row.
    refused = {("PT429", "PQ_BUSY"), ("PT400", "PQ_INVALID_ARGUMENT")}
    assert await refusal(other, call) in {None, *refused}
    await other.execute("rollback")
    assert await refusal(other, call) is None


async def test_one_of_two_transactions_that_create_queues_in_opposite_orders_is_busy(connections):
    async def enqueue_in_order(connection, first, second, barrier):
        await connection.execute("begin")
        await connection.fetchval("select enqueue_job('t', queue => $1)", first)
        await barrier.wait()
        found = await refusal(connection, ("enqueue_job('t', queue => $1)", [second]))
        await connection.execute("rollback")
        return found

    barrier = asyncio.Barrier(2)
    answers = await asyncio.gather(
        enqueue_in_order(connections[0], "new1", "new2", barrier),
        enqueue_in_order(connections[1], "new2", "new1", barrier),
    )
    assert set(answers) <= {None, ("PT429", "PQ_BUSY")}
    assert ("PT429", "PQ_BUSY") in answers


@pytest.mark.parametrize("queue", ["default", "fair", "new"])
@pytest.mark.parametrize("delay", [None, "1 h"])
async def test_enqueues_without_id_or_options_take_no_subtransactions(connections, queue, delay):
    """If a transaction has over 64 subtransactions, all sessions must read pg_subtrans."""
    one, _ = connections
    await one.fetchval("select set_queue('fair', '{\"fair_share\": true}')")
    await one.execute("begin")
    for _ in range(3):
        call = "enqueue_job('t', queue => $1, scheduled_for => now() + $2::text::interval)"
        await call_function(one, (call, [queue, delay]))
    by_main_transaction = "select count(*) from job_queue where xmin = pg_current_xact_id()::xid"
    assert await one.fetchval(by_main_transaction) == 3
