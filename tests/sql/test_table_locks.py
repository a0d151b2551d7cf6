"""While a table is locked, every API function returns or raises PQ_BUSY within its time limit."""

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from tests.databases import connect

#: A call of each function. Each call has its own rows, so that it waits for no other call.
CALLS = {
    "begin_prediction": "begin_prediction('{job}', '{lease}')",
    "cancel_generation": "cancel_generation('{generation}')",
    "cancel_generation_batch": "cancel_generation_batch('{batch_id}')",
    "cancel_job": "cancel_job('{parked}')",
    "change_jobs": "change_jobs('cancel', '{{\"queue\": \"{name}\"}}')",
    "claim_jobs": "claim_jobs('w', '{{{name}}}', '{{t,p}}', 5)",
    "claim_next_job": "claim_next_job('{name}')",
    "complete_job": "complete_job('{job}', '1', null, '{lease}')",
    "delete_generation": "delete_generation('{ended}')",
    "delete_budget": "delete_budget('plan:{name}', gen_random_uuid())",
    "delete_input_rule": "delete_input_rule('m/{name}', 'k', 'refuse')",
    "delete_limit": "delete_limit('k:{name}', gen_random_uuid())",
    "delete_schedule": "delete_schedule('{name}')",
    "desired_workers": "desired_workers('{name}')",
    "drain_queue": "drain_queue('{name}')",
    "enqueue_batch": """enqueue_batch('[{{"job_type": "t"}}]', '{{"job_type": "t"}}')""",
    "enqueue_job": "enqueue_job('t', queue => '{name}')",
    "enqueue_jobs": """enqueue_jobs('[{{"job_type": "t", "queue": "{name}", "options":
        {{"depends_on": ["{pending}"], "unique": {{}}}}}}]')""",
    "explain_jobs": "explain_jobs('{{{job},{pending},{parked},{failed}}}')",
    "failure_reasons": "failure_reasons('{{}}')",
    "finish_prediction": "finish_prediction('{job}', '{lease}', '{prediction}', 'failed')",
    "get_account": "get_account('{user}')",
    "receive_prediction": "receive_prediction('{prediction}', 'p', 'succeeded', 50, 'm')",
    "get_batch": "get_batch('{batch}')",
    "get_generation": "get_generation('{generation}')",
    "get_job": "get_job('{job}')",
    "get_job_history": "get_job_history('{failed}')",
    "get_settings": "get_settings()",
    "grant_credits": "grant_credits('{user}', 5)",
    "heartbeat_jobs": """heartbeat_jobs('w-{name}', '[{{"job_id": "{job}", "lease_id": "{lease}"}},
        {{"job_id": "{second_job}", "lease_id": "{second_lease}"}}]')""",
    "job_position": "job_position('{pending}')",
    "list_deleted_generations": "list_deleted_generations('{{{ended}}}')",
    "list_generations": """list_generations('{{"search": "cat"}}')""",
    "list_accounts": "list_accounts()",
    "list_budgets": "list_budgets()",
    "list_input_rules": "list_input_rules()",
    "list_jobs": "list_jobs()",
    "list_ledger": "list_ledger()",
    "list_limits": "list_limits()",
    "list_models": "list_models()",
    "list_queues": "list_queues()",
    "list_schedules": "list_schedules()",
    "list_tenants": "list_tenants()",
    "log_job": """log_job('{job}', '{lease}', '[{{"message": "m"}}]')""",
    "maintain_jobs": "maintain_jobs(force => true)",
    "pause_key": "pause_key('k:{name}')",
    "pause_queue": "pause_queue('{name}')",
    "pause_schedule": "pause_schedule('{name}')",
    "picture_queue_version": "picture_queue_version()",
    "purge_queue": "purge_queue('{name}')",
    "queue_counts": "queue_counts()",
    "queue_doctor": "queue_doctor(now())",
    "queue_status": "queue_status()",
    "record_deleted_files": "record_deleted_files('{{{deleted}}}')",
    "record_prediction": "record_prediction('{job}', '{lease}', '{prediction}', 'p-{name}')",
    "register_worker": """register_worker('w-{name}', '{{{name}}}', '{{"t-{name}": {{}}}}')""",
    "report_jobs": """report_jobs('[
        {{"job_id": "{job}", "lease_id": "{lease}", "outcome": "failed"}},
        {{"job_id": "{second_job}", "lease_id": "{second_lease}", "outcome": "completed"}}]',
        '{{"worker": "w", "queues": ["{name}"], "job_types": ["t"], "max_jobs": 1}}')""",
    "report_progress": "report_progress('{job}', '{lease}', 50)",
    "resume_key": "resume_key('k:{name}')",
    "resume_queue": "resume_queue('{name}')",
    "resume_schedule": "resume_schedule('{name}')",
    "retry_job": "retry_job('{failed}')",
    "run_schedule": "run_schedule('{name}')",
    "save_images": """save_images('{job}', '{lease}',
        '[{{"n": 1, "path": "a", "mime_type": "b"}}]')""",
    "send_event": "send_event('{name}', '1', 'once')",
    "set_favourite": "set_favourite('{ended}')",
    "set_account": "set_account('{user}', 'free')",
    "set_budget": "set_budget('user:{user}', '{{\"per_minute\": 5}}')",
    "set_input_rule": "set_input_rule('s/{name}', 'k', 'refuse')",
    "set_limit": "set_limit('k:{name}', 2)",
    "set_model": """set_model('m/{name}', '{{"kind": "upscale", "inputs": []}}')""",
    "set_queue": "set_queue('{name}', '{{\"fair_share\": true}}')",
    "set_schedule": """set_schedule('{name}', '{{"every_seconds": 9, "job_type": "t"}}')""",
    "set_setting": "set_setting('{{\"max_attempts\": 4}}')",
    "set_tenant": "set_tenant('{name}', 2)",
    "start_generation": "start_generation('a boat')",
    "start_generations": 'start_generations(\'[{{"prompt": "a boat"}}]\')',
    "generation_batch": "generation_batch('{batch_id}')",
    "unregister_worker": "unregister_worker('w-{name}')",
}
#: These functions return a row of the table, so Postgres locks the table before it calls them.
RETURNS_TABLE_ROW = {"claim_next_job"}
#: The body of a function that creates the rows of one call and returns their ids by name.
SETUP = """
declare
  v_name text := $1;
  v_ids jsonb := jsonb_build_object('name', v_name, 'user', gen_random_uuid());
  v_job jsonb;
begin
  perform set_limit('k:' || v_name, 1, 100, 60), set_tenant(v_name, 3),
    set_input_rule('m/' || v_name, 'k', 'refuse'),
    set_budget('plan:' || v_name, '{"per_minute": 9}'),
    register_worker('w-' || v_name, array[v_name], '{"t": {}, "p": {}}');
  v_ids := v_ids || jsonb_build_object(
    'ended', start_generation('a dog') -> 'generation_id',
    'deleted', start_generation('a fox') -> 'generation_id');
  v_ids := v_ids || (start_generations('[{"prompt": "a car"}]',
    '{"scheduled_for": "2099-01-01"}') - 'generations');
  perform cancel_generation((v_ids ->> 'ended')::uuid),
    cancel_generation((v_ids ->> 'deleted')::uuid),
    delete_generation((v_ids ->> 'deleted')::uuid);
  perform set_schedule(v_name, '{"every_seconds": 60, "job_type": "t"}');
  v_ids := v_ids || start_generation('a cat');
  v_job := claim_jobs('w-' || v_name, '{default}', '{generate-image}', 1, 3600) -> 0;
  v_ids := v_ids || jsonb_build_object('generation', v_ids -> 'generation_id',
    'job', v_job -> 'id', 'lease', v_job -> 'lease_id');
  v_ids := v_ids || jsonb_build_object('prediction',
    begin_prediction((v_job ->> 'id')::uuid, (v_job ->> 'lease_id')::uuid) #> '{prediction,id}');
  perform enqueue_job('l', queue => v_name), enqueue_job('p', queue => v_name),
    enqueue_job('f', queue => v_name, max_attempts => 1);
  v_job := claim_jobs('w-' || v_name, array[v_name], '{l}', 1, 3600) -> 0;
  v_ids := v_ids || jsonb_build_object('second_job', v_job -> 'id',
    'second_lease', v_job -> 'lease_id');
  v_job := claim_jobs('w-' || v_name, array[v_name], '{p}', 1) -> 0;
  v_ids := v_ids || jsonb_build_object('parked', v_job -> 'id');
  perform report_jobs(jsonb_build_array(jsonb_build_object('job_id', v_job -> 'id', 'lease_id',
    v_job -> 'lease_id', 'outcome', 'parked', 'event', v_name)));
  v_job := claim_jobs('w-' || v_name, array[v_name], '{f}', 1) -> 0;
  v_ids := v_ids || jsonb_build_object('failed', v_job -> 'id');
  perform report_jobs(jsonb_build_array(jsonb_build_object('job_id', v_job -> 'id', 'lease_id',
    v_job -> 'lease_id', 'outcome', 'failed', 'error', 'no')));
  v_job := enqueue_batch(jsonb_build_array(jsonb_build_object('job_type', 't', 'queue', v_name,
    'options', jsonb_build_object('limit_keys', jsonb_build_array('k:' || v_name)))));
  return v_ids || jsonb_build_object('batch', v_job -> 'batch_id',
    'pending', v_job #> '{jobs,0,job_id}');
end
"""
TABLES = """
select string_agg(c.oid::regclass::text, ' ' order by c.relname) from pg_class c
where c.relkind in ('r', 'p') and not c.relispartition
  and (c.relnamespace = 'picture_queue'::regnamespace or c.oid in (
    'public.generations'::regclass, 'public.images'::regclass, 'realtime.messages'::regclass))
"""
FUNCTIONS = """
select p.proname from pg_proc p where p.pronamespace = 'public'::regnamespace
  and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
"""
# A call waits up to 2 seconds for a lock. It may take longer because 60 calls run at once.
MAX_SECONDS = 3.0
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def calls(own_database: str) -> dict[str, str]:
    """Create the rows of each call, and return the calls with the ids of their rows."""

    async def create_rows() -> dict[str, str]:
        connection = await connect(own_database)
        await connection.execute(
            f"create function pg_temp.prepare(text) returns jsonb language plpgsql as $f${SETUP}$f$"
        )
        statements = {
            name: call.format(**await connection.fetchval("select pg_temp.prepare($1)", name))
            for name, call in CALLS.items()
        }
        await connection.close(timeout=5)
        return statements

    return asyncio.run(create_rows())


async def call_and_roll_back(
    url: str, slots: asyncio.Semaphore, call: str
) -> tuple[str | None, float]:
    """Make a call and roll it back; return its error and its duration."""
    async with slots:
        connection = await connect(url)
        await connection.execute("set statement_timeout = '6s'")
        await connection.execute("begin")
        started_at, error = time.monotonic(), None
        try:
            await connection.execute(f"select {call}")
        except asyncpg.PostgresError as raised:
            error = f"{raised.sqlstate} {raised.message}"
        seconds = time.monotonic() - started_at
        await connection.execute("rollback")
        await connection.close(timeout=5)
        return error, seconds


async def find_failures_while_locked(url: str, table: str, calls: dict[str, str]) -> dict[str, Any]:
    """Lock a table and make the calls; return slow calls and errors other than PQ_BUSY."""
    holder = await connect(url)
    slots = asyncio.Semaphore(70)
    try:
        await holder.execute("begin")
        await holder.execute(f"lock table {table} in access exclusive mode")
        answers = await asyncio.gather(
            *(call_and_roll_back(url, slots, call) for call in calls.values())
        )
    finally:
        await holder.close(timeout=5)
    return {
        name: (error, round(seconds, 1))
        for name, (error, seconds) in zip(calls, answers, strict=True)
        if seconds > MAX_SECONDS or (error and not error.startswith("PT429 PQ_BUSY"))
    }


async def test_every_function_has_a_call_that_succeeds(own_database: str, calls: dict[str, str]):
    connection = await connect(own_database)
    found = {row[0] for row in await connection.fetch(FUNCTIONS)}
    await connection.close(timeout=5)
    assert found == CALLS.keys()
    slots = asyncio.Semaphore(1)
    answers = {
        name: await call_and_roll_back(own_database, slots, call) for name, call in calls.items()
    }
    assert {name: error for name, (error, _) in answers.items() if error} == {}


async def test_calls_end_in_time_while_the_table_of_jobs_is_locked(
    own_database: str, calls: dict[str, str]
):
    bad = await find_failures_while_locked(own_database, "public.job_queue", calls)
    assert bad.keys() == RETURNS_TABLE_ROW, bad


LEASES = """(select jsonb_agg(jsonb_build_object(
  'outcome', 'completed', 'job_id', gen_random_uuid(), 'lease_id', gen_random_uuid()))
  from generate_series(1, 500))"""
BULK_CALLS = [
    ("public.job_queue", f"heartbeat_jobs('w', {LEASES})"),
    ("public.job_queue", f"report_jobs({LEASES})"),
    ("picture_queue.history", """change_jobs('cancel', '{"queue": "many"}')"""),
    ("picture_queue.history", "purge_queue('many')"),
    ("picture_queue.depth_change", "claim_jobs('w', '{many}', '{t}', 100)"),
]


@pytest.mark.parametrize(("table", "call"), BULK_CALLS)
async def test_a_call_for_many_jobs_waits_for_the_lock_only_once(
    own_database: str, table: str, call: str
):
    connection = await connect(own_database)
    await connection.fetchval(
        """select enqueue_jobs((
          select jsonb_agg('{"job_type": "t", "queue": "many"}'::jsonb)
          from generate_series(1, 500)))"""
    )
    await connection.close(timeout=5)
    assert await find_failures_while_locked(own_database, table, {"call": call}) == {}


@pytest.mark.slow
async def test_calls_end_in_time_while_any_table_is_locked(
    own_database: str, calls: dict[str, str]
):
    connection = await connect(own_database)
    tables = (await connection.fetchval(TABLES)).split()
    await connection.close(timeout=5)
    found = {
        table: await find_failures_while_locked(own_database, table, calls) for table in tables
    }
    assert {table: bad for table, bad in found.items() if bad} == {}
