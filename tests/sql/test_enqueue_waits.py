"""An enqueue that waits for an open transaction raises PQ_BUSY after two seconds."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from tests.databases import connect

JOB = {"job_type": "t", "payload": {"a": 1}}


BATCH, NEW_BATCH, NEW_JOB, GENERATION = uuid4(), uuid4(), uuid4(), str(uuid4())


def unique_job(on_conflict):
    return JOB | {"options": {"unique": {"on_conflict": on_conflict}}}


def enqueue_jobs_call(*jobs):
    """Return the text and the arguments of a call of enqueue_jobs."""
    return "enqueue_jobs($1)", [list(jobs)]


#: For some cases, a call that is committed before the two calls of the case.
PREPARATIONS = {
    "replace": enqueue_jobs_call(unique_job("ignore")),
    "debounce": enqueue_jobs_call(unique_job("ignore")),
    "batch": ("enqueue_batch($1, batch_id => $2)", [[JOB], BATCH]),
}

#: For each case, the call in an open transaction, and the call that must wait for it.
CASES = {
    "queue": (("enqueue_job('t', queue => 'new')", []), ("enqueue_job('t', queue => 'new')", [])),
    "queues": (
        ("enqueue_job('t', queue => 'new')", []),
        enqueue_jobs_call({"job_type": "t", "queue": "new"}, {"job_type": "t", "queue": "newer"}),
    ),
    "job_id": (
        ("enqueue_job('t', job_id => $1)", [NEW_JOB]),
        ("enqueue_job('t', job_id => $1)", [NEW_JOB]),
    ),
    "idempotency_key": (
        ("enqueue_job('t', idempotency_key => 'k')", []),
        ("enqueue_job('t', idempotency_key => 'k')", []),
    ),
    "unique": (enqueue_jobs_call(unique_job("ignore")), enqueue_jobs_call(unique_job("ignore"))),
    "replace": (
        ("cancel_job((select id from job_queue limit 1))", []),
        enqueue_jobs_call(unique_job("replace")),
    ),
    "debounce": (
        ("cancel_job((select id from job_queue limit 1))", []),
        enqueue_jobs_call(unique_job("debounce")),
    ),
    "batch": (
        enqueue_jobs_call(JOB | {"options": {"batch_id": str(BATCH)}}),
        enqueue_jobs_call(JOB | {"options": {"batch_id": str(BATCH)}}),
    ),
    "new_batch": (
        ("enqueue_batch($1, batch_id => $2)", [[JOB], NEW_BATCH]),
        ("enqueue_batch($1, batch_id => $2)", [[JOB], NEW_BATCH]),
    ),
    "generation": (
        ("start_generation('a boat', options => $1)", [{"generation_id": GENERATION}]),
        ("start_generation('a boat', options => $1)", [{"generation_id": GENERATION}]),
    ),
    "schedule": (
        ("run_schedule('s', $1)", [NEW_JOB]),
        ("run_schedule('s', $1)", [NEW_JOB]),
    ),
}


@pytest.fixture
async def connections(own_database):
    blocker, waiter = await connect(own_database), await connect(own_database)
    await blocker.fetchval("select set_schedule('s', $1)", {"every_seconds": 3600, "job_type": "t"})
    yield blocker, waiter
    for connection in (blocker, waiter):
        if connection.is_in_transaction():
            await connection.execute("rollback")
    await blocker.execute("delete from job_queue")
    await blocker.execute("delete from picture_queue.batch")
    await blocker.execute("delete from picture_queue.queue where name like 'new%'")
    await blocker.execute("delete from generations")
    for connection in (blocker, waiter):
        await connection.close(timeout=5)


async def call_function(connection, call):
    text, values = call
    return await connection.fetchval(f"select {text}", *values)


async def refusal(connection, call):
    """Make a call; return the SQLSTATE and the PQ code of its error, or None if it succeeds."""
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
    blocker, waiter = connections
    first_call, call = CASES[name]
    await prepare(blocker, name)
    await blocker.execute("begin")
    await call_function(blocker, first_call)
    async with asyncio.timeout(30):
        assert await refusal(waiter, call) == ("PT429", "PQ_BUSY")
    # The lock_timeout of the caller is restored, and the repeated call succeeds.
    assert await waiter.fetchval("show lock_timeout") == "0"
    await blocker.execute("commit")
    assert await refusal(waiter, call) is None


@pytest.mark.parametrize("name", CASES)
async def test_an_enqueue_with_an_older_snapshot_succeeds_or_is_refused(connections, name):
    blocker, waiter = connections
    first_call, call = CASES[name]
    await prepare(blocker, name)
    await waiter.execute("begin isolation level repeatable read")
    await waiter.fetchval("select count(*) from job_queue")
    await call_function(blocker, first_call)
    # In the same transaction a retry fails again: its snapshot does not show the conflicting row.
    refused = {("PT429", "PQ_BUSY"), ("PT400", "PQ_INVALID_ARGUMENT")}
    assert await refusal(waiter, call) in {None, *refused}
    await waiter.execute("rollback")
    assert await refusal(waiter, call) is None


async def test_one_of_two_transactions_that_create_queues_in_opposite_orders_is_busy(connections):
    async def enqueue_in_order(connection, first, second, barrier):
        await connection.execute("begin")
        await connection.fetchval("select enqueue_job('t', queue => $1)", first)
        await barrier.wait()
        refused = await refusal(connection, ("enqueue_job('t', queue => $1)", [second]))
        await connection.execute("rollback")
        return refused

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
    connection, _ = connections
    await connection.fetchval("select set_queue('fair', '{\"fair_share\": true}')")
    await connection.execute("begin")
    for _ in range(3):
        call = "enqueue_job('t', queue => $1, scheduled_for => now() + $2::text::interval)"
        await call_function(connection, (call, [queue, delay]))
    # A row that a subtransaction inserted has the id of the subtransaction as its xmin.
    by_main_transaction = "select count(*) from job_queue where xmin = pg_current_xact_id()::xid"
    assert await connection.fetchval(by_main_transaction) == 3
