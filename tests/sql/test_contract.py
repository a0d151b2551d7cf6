"""The public contract: signatures, roles, and statements of the replaced job queue."""

import json
import re
from pathlib import Path

import pytest

from picture_queue import _rpc, errors

SCHEMAS = Path(__file__).parents[2] / "supabase" / "schemas"
RPC = Path(_rpc.__file__).parent

#: Every public function: its parameters (= marks a default), and the roles that may execute it.
FUNCTIONS = {
    "begin_prediction": ("job_id, lease_id, lost=", "service"),
    "cancel_generation": ("generation_id, request_id=", "user"),
    "cancel_generation_batch": ("batch_id", "user"),
    "cancel_job": ("job_id, request_id=", "user"),
    "claim_jobs": (
        "worker, queues, job_types, max_jobs=, lease_seconds=, request_id=, weights=, "
        "confirms_start=",
        "service",
    ),
    "claim_next_job": ("queue=", "service"),
    "complete_job": ("job_id, result=, error=, lease_id=", "service"),
    "enqueue_job": (
        "job_type, payload=, priority=, queue=, scheduled_for=, max_attempts=, user_id=, "
        "idempotency_key=, job_id=, options=",
        "service",
    ),
    "enqueue_jobs": ("jobs, request_id=", "service"),
    "delete_limit": ("key, request_id=", "service"),
    "delete_budget": ("key, request_id=", "service"),
    "get_account": ("user_id=", "user"),
    "grant_credits": ("user_id, usd, idempotency_key=, note=", "service"),
    "list_accounts": ("filter=", "service"),
    "list_budgets": ("filter=", "service"),
    "list_ledger": ("filter=", "service"),
    "set_account": ("user_id, plan=", "service"),
    "set_budget": ("key, changes=", "service"),
    "drain_queue": ("queue", "service"),
    "enqueue_batch": ("jobs, callback=, batch_id=, metadata=, request_id=", "service"),
    "change_jobs": ("action, filter, preview=, request_id=", "service"),
    "desired_workers": (
        "queue=, jobs_per_worker=, min_workers=, max_workers=",
        "service",
    ),
    "failure_reasons": ("filter=", "service"),
    "get_batch": ("batch_id", "service"),
    "get_job_history": ("job_id", "service"),
    "get_settings": ("", "service"),
    "list_limits": ("filter=", "service"),
    "list_queues": ("filter=", "service"),
    "list_tenants": ("filter=", "service"),
    "job_position": ("job_id", "user"),
    "explain_jobs": ("job_ids", "user"),
    "log_job": ("job_id, lease_id, lines", "service"),
    "maintain_jobs": ("force=, worker=", "service"),
    "queue_counts": ("filter=", "service"),
    "queue_doctor": ("client_time=", "service"),
    "pause_key": ("key, resume_at=", "service"),
    "pause_queue": ("queue, resume_at=, reason=", "service"),
    "purge_queue": ("queue, preview=, request_id=", "service"),
    "resume_key": ("key", "service"),
    "resume_queue": ("queue", "service"),
    "send_event": ("name, payload=, event_id=", "service"),
    "set_limit": ("key, max_running=, rate=, period_seconds=", "service"),
    "set_queue": ("queue, changes=", "service"),
    "set_setting": ("changes", "service"),
    "set_schedule": ("name, schedule", "service"),
    "delete_schedule": ("name, request_id=", "service"),
    "pause_schedule": ("name", "service"),
    "resume_schedule": ("name", "service"),
    "run_schedule": ("name, job_id=", "service"),
    "list_schedules": ("filter=", "service"),
    "set_tenant": ("tenant, weight", "service"),
    "receive_prediction": (
        "prediction, prediction_id, status, progress=, message=",
        "service",
    ),
    "finish_prediction": ("job_id, lease_id, prediction, state, error=, metrics=", "service"),
    "get_generation": ("generation_id", "user"),
    "get_job": ("job_id", "user"),
    "heartbeat_jobs": ("worker, leases", "service"),
    "list_generations": ("filter=", "user"),
    "set_favourite": ("generation_id, favourite=", "user"),
    "delete_generation": ("generation_id, request_id=", "user"),
    "list_deleted_generations": ("generation_ids", "service"),
    "record_deleted_files": ("generation_ids", "service"),
    "list_jobs": ("filter=", "user"),
    "list_models": ("filter=", "user"),
    "set_model": ("model_id, changes", "service"),
    "set_input_rule": ("model, input, action, value=, plan=", "service"),
    "delete_input_rule": ("model, input, action, plan=, request_id=", "service"),
    "list_input_rules": ("", "service"),
    "picture_queue_version": ("", "user"),
    "queue_status": ("", "service"),
    "record_prediction": ("job_id, lease_id, prediction, prediction_id", "service"),
    "register_worker": ("worker, queues, job_types", "service"),
    "report_jobs": ("outcomes, claim=", "service"),
    "report_progress": ("job_id, lease_id, progress, message=", "service"),
    "retry_job": ("job_id, request_id=", "service"),
    "save_images": ("job_id, lease_id, images, missing=", "service"),
    "start_generation": ("prompt, model_id=, input=, options=", "user"),
    "start_generations": ("requests, options=", "user"),
    "generation_batch": ("batch_id", "user"),
    "unregister_worker": ("worker", "service"),
}
ROLES = {"service": {"service_role"}, "user": {"service_role", "authenticated"}}
API_ROLES = ("anon", "authenticated", "service_role")


async def functions(db, schema):
    return await db.rows(
        """select p.proname as name, p.oid::regprocedure::text as signature, p.proconfig as config,
          p.prosecdef as definer, p.proargnames as names, p.pronargs as count,
          p.pronargdefaults as defaults,
          (select array_agg(r) from unnest($2::text[]) r
           where has_function_privilege(r, p.oid, 'execute')) as roles,
          coalesce((select bool_or(a.grantee = 0) from aclexplode(p.proacl) a), p.proacl is null)
            as open_to_public
        from pg_proc p where p.pronamespace = $1::regnamespace and not exists (
          select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
        order by p.proname""",
        schema,
        list(API_ROLES),
    )


async def test_the_public_functions_have_the_listed_parameters_and_roles(db):
    found = {}
    for function in await functions(db, "public"):
        assert function["name"] not in found, "PostgREST cannot choose between overloads"
        names = (function["names"] or [])[: function["count"]]
        required = function["count"] - function["defaults"]
        parameters = ", ".join(
            name + ("=" if i >= required else "") for i, name in enumerate(names)
        )
        found[function["name"]] = (parameters, set(function["roles"] or ()))
    assert found == {name: (params, ROLES[caller]) for name, (params, caller) in FUNCTIONS.items()}


async def test_every_function_has_a_fixed_search_path_and_no_grant_to_public(db):
    for schema in ("public", "picture_queue"):
        for function in await functions(db, schema):
            assert not function["open_to_public"], function["signature"]
            assert function["config"][0] == "search_path=pg_catalog, pg_temp", function["signature"]


async def test_no_function_has_a_backslash_in_a_plain_literal(db):
    """A backslash is an escape character if `standard_conforming_strings` is off."""
    token = re.compile(r"--[^\n]*|\$(\w*)\$.*?\$\1\$|(\bE)?'(?:[^']|'')*'", re.S | re.I)
    rows = await db.rows(
        """select p.oid::regprocedure::text as name, p.prosrc from pg_proc p
        where p.pronamespace = 'picture_queue'::regnamespace or p.oid in (
          select f.oid from picture_queue._our_functions() f)"""
    )
    found = {
        row["name"]: literal[0]
        for row in rows
        for literal in token.finditer(row["prosrc"])
        if literal[0].startswith("'") and "\\" in literal[0]
    }
    assert found == {}


async def test_no_public_function_for_users_is_a_security_definer(db):
    for function in await functions(db, "public"):
        if "authenticated" in (function["roles"] or ()):
            assert not function["definer"], function["signature"]


async def test_tables_have_row_level_security_and_views_are_security_invokers(db):
    """A test in tests/security compares the grants of the tables with docs/security.md."""
    rows = await db.rows(
        """select c.oid::regclass::text as name, c.relkind::text as kind, c.relrowsecurity as rls,
          c.reloptions as options from pg_class c
        where c.relkind in ('r', 'p', 'v') and c.relnamespace in
          ('public'::regnamespace, 'picture_queue'::regnamespace)"""
    )
    for row in rows:
        if row["kind"] == "v":
            assert "security_invoker=true" in row["options"], row["name"]
        else:
            assert row["rls"], row["name"]


@pytest.mark.parametrize(
    "statement",
    [
        "select enqueue_job('generate-image', '{}'::jsonb, 0)",
        "select * from claim_next_job()",
        "select * from queue_health",
        "select * from failed_jobs_recent limit 10",
        "select * from stuck_jobs",
        "select count(*) from job_queue where status = 'pending'",
    ],
)
async def test_statements_of_the_replaced_queue_run_unchanged(db, statement):
    await db.rows(statement)


async def test_complete_job_accepts_the_call_of_the_replaced_queue(db):
    job_id = await db.value("select enqueue_job('generate-image', '{}'::jsonb, 1000000)")
    assert (await db.rows("select * from claim_next_job()"))[0]["id"] == job_id
    assert await db.value(f"select complete_job('{job_id}', null, null)") == "completed"


async def test_a_trigger_sets_updated_at(db):
    job_id = await db.enqueue()
    before = (await db.job(job_id))["updated_at"]
    await db.pass_time(5)
    await db.run("update job_queue set message = 'x' where id = $1", job_id)
    assert ((await db.job(job_id))["updated_at"] - before).total_seconds() >= 5


async def test_python_calls_every_function_except_two_of_the_replaced_queue():
    source = "".join(file.read_text("utf-8") for file in RPC.glob("*.py"))
    called = set(re.findall(r'(?:Rpc|list_page)\(\s*"(\w+)"', source))

    assert called == FUNCTIONS.keys() - {"claim_next_job", "complete_job"}


async def test_the_table_of_codes_is_the_same_in_sql_and_python():
    text = (SCHEMAS / "030_function__raise_error.sql").read_text("utf-8")
    in_sql = {code: int(http) for code, http in re.findall(r"\('(PQ_\w+)',\s+'(\d+)'", text)}
    in_python = {code: error.http_status for code, error in errors.BY_CODE.items()}
    assert in_sql == in_python
    # PostgREST reloads its schema cache after each answer with this status.
    assert 503 not in in_python.values()


async def test_sql_and_python_have_the_same_version_and_contract(db):
    from picture_queue import __version__

    found = await db.value("select picture_queue_version()")
    assert found["contract"] == _rpc.CONTRACT
    assert found["version"] == __version__


async def test_sql_and_python_have_the_same_catalogue(db):
    path = Path(__file__).parents[2] / "picture_queue/providers/replicate/models.json"
    models = json.loads(path.read_text("utf-8"))
    offered = await db.value("select list_models()")
    assert len(models) >= 15
    unavailable = {model["id"] for model in models if model["unavailable_reason"]}
    # Other tests add models of the owner "my" to the shared database.
    offered_ids = {m["model_id"] for m in offered if not m["model_id"].startswith("my/")}
    assert offered_ids | unavailable == {m["id"] for m in models}
    all_models = await db.value("""select list_models('{"include_disabled": true}')""")
    assert {m["model_id"] for m in all_models if m["unavailable_reason"]} == unavailable


async def test_maintenance_is_scheduled_only_with_pg_cron(db):
    assert await db.value("select picture_queue.schedule_maintenance()") in (
        "pg_cron is not installed",
        "scheduled",
    )


async def test_maintain_promotes_and_sweeps(db):
    await db.enqueue()
    (job,) = await db.claim(lease=5.0)
    scheduled = await db.enqueue(options={"delay_seconds": 5})
    await db.pass_time(6, maintained=False)
    answer = await db.value("select picture_queue.maintain()")
    assert answer["swept"] >= 1
    assert answer["promoted"] >= 1
    assert answer["leased"] is True
    assert 0 <= answer["next_in"] <= 2
    assert (await db.job(job["id"]))["status"] == "pending"
    assert (await db.job(scheduled))["hold"] is None
