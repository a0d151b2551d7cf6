"""A call that waits for a lock of an open transaction ends after a bounded time."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from tests.databases import connect

OPERATOR_CALLS = (
    "set_queue('held', '{\"max_attempts\": 5}')",
    "set_queue('held', '{\"fair_share\": true}')",
    "pause_queue('held')",
    "resume_queue('held')",
    "drain_queue('held')",
    "set_setting('{\"max_attempts\": 5}')",
)
#: Calls that cancel jobs of locked batches; maintenance counts the batches later.
CANCEL_CALLS = ("purge_queue('children')", "change_jobs('cancel', '{\"queue\": \"others\"}')")


@pytest.fixture
async def held_locks(own_database):
    """A database URL, and a connection that holds locks on queues, settings and batches."""
    holder = await connect(own_database)
    await holder.fetchval("select set_queue('held')")
    for queue in ("children", "others"):
        await holder.fetchval("select enqueue_batch($1)", [{"job_type": "t", "queue": queue}])
    await holder.execute("begin")
    for table in ("queue", "setting", "batch"):
        await holder.fetch(f"select * from picture_queue.{table} for update")
    yield own_database, holder
    if holder.is_in_transaction():
        await holder.execute("rollback")
    await holder.execute("delete from job_queue")
    await holder.close(timeout=5)


async def refusal(url, call):
    """Return the call with the SQLSTATE and PQ code of its error, or with None."""
    connection = await connect(url)
    try:
        await connection.fetchval(f"select {call}")
    except asyncpg.PostgresError as error:
        # The lock_timeout of the caller is restored.
        assert await connection.fetchval("show lock_timeout") == "0"
        return call, error.sqlstate, error.message.split(":")[0]
    finally:
        await connection.close(timeout=5)
    return call, None, None


async def test_calls_of_operators_raise_busy(held_locks):
    url, _ = held_locks
    answers = await asyncio.gather(*(refusal(url, call) for call in OPERATOR_CALLS))
    assert answers == [(call, "PT429", "PQ_BUSY") for call in OPERATOR_CALLS]


async def test_jobs_of_a_locked_batch_are_cancelled_and_counted_later(held_locks):
    url, holder = held_locks
    answers = await asyncio.gather(*(refusal(url, call) for call in CANCEL_CALLS))
    assert answers == [(call, None, None) for call in CANCEL_CALLS]
    observer = await connect(url)
    try:
        jobs = await observer.fetch("select status, batch_id from job_queue")
        assert [job["status"] for job in jobs] == ["cancelled", "cancelled"]
        counted = "select sum(cancelled) from picture_queue.batch where id = any ($1)"
        batches = [job["batch_id"] for job in jobs]
        await observer.fetchval("select picture_queue._do_due_steps(1000, true)")
        assert await observer.fetchval(counted, batches) == 0, "the batches are locked"
        assert await observer.fetchval("select count(*) from picture_queue.failed_step") == 0
        await holder.execute("rollback")
        await observer.execute("update picture_queue.follow_up set due_at = '-infinity'")
        await observer.fetchval("select picture_queue._do_due_steps(1000, true)")
        assert await observer.fetchval(counted, batches) == 2
    finally:
        await observer.close(timeout=5)


LEASE_CALLS = (
    "begin_prediction($1, $2)",
    "record_prediction($1, $2, $3, 'p')",
    "finish_prediction($1, $2, $3, 'failed')",
    'save_images($1, $2, \'[{"n": 1, "path": "a", "mime_type": "b"}]\')',
    "report_progress($1, $2, 50)",
    'log_job($1, $2, \'[{"message": "m"}]\')',
    "complete_job($1, lease_id => $2)",
    "retry_job($1)",
)


@pytest.fixture
async def running_generation(own_database):
    """A database URL, a connection, and the ids of a running job, its lease and prediction."""
    holder = await connect(own_database)
    await holder.fetchval("select start_generation('a boat')")
    claim = "select claim_jobs('painter', '{default}', '{generate-image}', 1, 300)"
    (job,) = await holder.fetchval(claim)
    lease = UUID(job["id"]), UUID(job["lease_id"])
    begun = await holder.fetchval("select begin_prediction($1, $2)", *lease)
    yield own_database, holder, (*lease, UUID(begun["prediction"]["id"]))
    if holder.is_in_transaction():
        await holder.execute("rollback")
    await holder.execute("delete from generations")
    await holder.execute("delete from job_queue")
    await holder.close(timeout=5)


@pytest.mark.parametrize("table", ["public.job_queue", "picture_queue.prediction"])
async def test_calls_under_a_lease_do_not_wait_for_a_locked_job(running_generation, table):
    url, holder, ids = running_generation
    await holder.execute("begin")
    await holder.fetch(f"select * from {table} for update")
    calls = LEASE_CALLS if table == "public.job_queue" else LEASE_CALLS[1:3]

    async def answer(call):
        connection = await connect(url)
        try:
            arguments = [value for i, value in enumerate(ids, 1) if f"${i}" in call]
            await connection.fetchval(f"select {call}", *arguments)
        except asyncpg.PostgresError as error:
            return call, error.sqlstate
        finally:
            await connection.close(timeout=5)
        return call, None

    answers = await asyncio.gather(*(answer(call) for call in calls))
    assert answers == [(call, "PT429") for call in calls]


async def test_calls_for_a_prediction_do_not_wait_for_its_generation_or_another_prediction(
    running_generation,
):
    url, holder, (job, lease, _) = running_generation
    await holder.execute("delete from picture_queue.prediction")
    caller = await connect(url)
    try:
        await holder.execute("begin")
        await holder.execute("select from public.generations for update")
        with pytest.raises(asyncpg.PostgresError) as refused:
            await caller.fetchval("select begin_prediction($1, $2)", job, lease)
        assert refused.value.sqlstate == "PT429"
        await holder.execute("rollback")
        begun = await caller.fetchval("select begin_prediction($1, $2)", job, lease)
        await holder.execute("begin")
        await holder.execute(
            """insert into picture_queue.prediction
              (job_id, generation_id, attempt, model_id, input, state, prediction_id)
            select job_id, id, 1, model_id, input, 'failed', 'taken' from public.generations"""
        )
        with pytest.raises(asyncpg.PostgresError) as refused:
            await caller.fetchval(
                "select record_prediction($1, $2, $3, 'taken')",
                job,
                lease,
                UUID(begun["prediction"]["id"]),
            )
        assert refused.value.sqlstate == "PT429"
    finally:
        await caller.close(timeout=5)


async def test_a_worker_row_in_an_open_transaction_delays_no_call(own_database):
    """The open transaction has inserted the row of holder worker and changed the row of another."""
    holder = await connect(own_database)
    claim = "claim_jobs('{}', '{{default}}', '{{t}}', 1)"
    register = "register_worker('{}', '{{default}}', '{{}}')"
    try:
        await holder.fetchval(f"select {register.format('known')}")
        await holder.execute("begin")
        for name in ("known", "new"):
            await holder.fetchval(f"select {claim.format(name)}")
        calls = [call.format(name) for call in (claim, register) for name in ("known", "new")]
        answers = await asyncio.gather(*(refusal(own_database, call) for call in calls))
        assert answers == [(call, None, None) for call in calls]
    finally:
        await holder.close(timeout=5)


async def test_only_a_changed_policy_conflicts_with_an_open_registration(own_database):
    holder = await connect(own_database)
    call = (
        "register_worker('{}', '{{q}}', '{{\"kept\": {{}}, \"held\": {{\"max_attempts\": {}}}}}')"
    )
    try:
        await holder.fetchval(f"select {call.format('holder', 2)}")
        await holder.execute("begin")
        await holder.fetchval(f"select {call.format('holder', 3)}")
        unchanged, changed = call.format("second", 2), call.format("third", 4)
        answers = await asyncio.gather(
            *(refusal(own_database, call) for call in (unchanged, changed))
        )
        assert answers == [(unchanged, None, None), (changed, "PT429", "PQ_BUSY")]
    finally:
        await holder.close(timeout=5)


IDEMPOTENT_CALLS = (
    "start_generation('a boat', options => '{\"idempotency_key\": \"held\"}')",
    "enqueue_batch('[]', batch_id => '00000000-0000-4000-8000-000000000001')",
    'set_schedule(\'held\', \'{"every_seconds": 60, "job_type": "t"}\')',
    "set_tenant('held', 2)",
    "set_limit('held', 2)",
    "set_queue('new')",
)


async def test_repeating_a_call_of_an_open_transaction_raises_busy(own_database):
    holder = await connect(own_database)
    try:
        await holder.execute("begin")
        for call in IDEMPOTENT_CALLS:
            await holder.fetchval(f"select {call}")
        answers = await asyncio.gather(*(refusal(own_database, call) for call in IDEMPOTENT_CALLS))
        assert answers == [(call, "PT429", "PQ_BUSY") for call in IDEMPOTENT_CALLS]
    finally:
        await holder.close(timeout=5)
