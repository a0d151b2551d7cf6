"""Objects that a caller creates in pg_temp never run with the privileges of our functions.

A session of `authenticated` or `service_role` creates temporary types, domains, relations,
operators, casts and functions under every name that our functions use. Each of these objects raises
a notice with the word EVIL if it runs as another role. Then the session calls every function that
it may call.
"""

import json
import re
from typing import Any

import asyncpg
import pytest

from tests.security.calls import CALLS
from tests.security.sample_project import SampleProject

ROLES = {"authenticated": "owner", "service_role": "service"}

#: Functions that raise a notice if they run as another role. A rollback does not undo a notice.
_EVIL = """
create function pg_temp.evil(what text) returns boolean language plpgsql as $$
begin
  if current_user <> '{role}' then
    raise notice 'EVIL: % as %', what, current_user;
  end if;
  return true;
end $$;
create function pg_temp.evil_row() returns trigger language plpgsql as $$
begin
  perform pg_temp.evil('trigger of ' || tg_table_name);
  return null;
end $$;
"""

#: Each object is created in a separate block, because Postgres refuses to create some objects.
_CREATE_EACH = """
do $do$
declare
  v_statement text;
begin
  for v_statement in {statements} loop
    begin
      execute v_statement;
    exception when others then
      null;
    end;
  end loop;
end $do$
"""

_RELATIONS = """
  select format('create view pg_temp.%I as select %s where pg_temp.evil(%L)', c.relname,
      string_agg(format('null::%s as %I', format_type(a.atttypid, null), a.attname), ', ' order by a.attnum),
      'relation ' || c.relname)
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where c.relkind in ('r', 'v', 'p', 'm')
    and c.relnamespace in ('public'::regnamespace, 'picture_queue'::regnamespace, 'pg_catalog'::regnamespace)
  group by c.relname, c.oid
  union all
  select format('create trigger evil instead of insert or update or delete on pg_temp.%I
    for each row execute function pg_temp.evil_row()', c.relname)
  from pg_class c
  where c.relkind in ('r', 'v', 'p')
    and c.relnamespace in ('public'::regnamespace, 'picture_queue'::regnamespace, 'pg_catalog'::regnamespace)
"""  # noqa: E501

_TYPES = """
  select {make}
  from pg_type t
  where t.typtype in ('b', 'c', 'd', 'e', 'r') and t.typname !~ '^_'
    -- The type of a row is created with its relation, below.
    and not exists (select from pg_class c where c.oid = t.typrelid and c.relkind <> 'c')
    and t.typnamespace in ('public'::regnamespace, 'picture_queue'::regnamespace, 'pg_catalog'::regnamespace)
"""  # noqa: E501
_DOMAIN = """format('create domain pg_temp.%I as %s check (pg_temp.evil(%L))', t.typname,
  t.oid::regtype, 'type ' || t.typname)"""
#: Types of the attacker, with casts that run the attacker's code.
_COMPOSITES = [
    "format('create type pg_temp.%I as (value text)', t.typname)",
    """format('create function pg_temp.%1$I(value text) returns pg_temp.%1$I language plpgsql as
      $$ begin perform pg_temp.evil(%2$L); return row(value); end $$',
      t.typname, 'cast ' || t.typname)""",
    """format('create function pg_temp.text(value pg_temp.%1$I) returns text language plpgsql as
      $$ begin perform pg_temp.evil(%2$L); return value.value; end $$',
      t.typname, 'cast ' || t.typname)""",
    """format('create cast (text as pg_temp.%1$I) with function pg_temp.%1$I(text) as implicit',
      t.typname)""",
    """format('create cast (pg_temp.%1$I as text) with function pg_temp.text(pg_temp.%1$I)
      as implicit', t.typname)""",
]  # fmt: skip

_FUNCTIONS = """
  select format('create function pg_temp.%I(%s) returns %s language plpgsql as
      $$ begin perform pg_temp.evil(%L); return null; end $$',
    p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid),
    'function ' || p.proname)
  from pg_proc p
  where p.pronamespace in ('public'::regnamespace, 'picture_queue'::regnamespace)
    or p.pronamespace = 'pg_catalog'::regnamespace and exists (
      select from pg_proc o
      where o.pronamespace in ('public'::regnamespace, 'picture_queue'::regnamespace)
        and position(p.proname || '(' in o.prosrc) > 0)
"""

_OPERATORS = """
  select format('create function pg_temp.%1$I(%2$s, %3$s) returns %4$s language plpgsql as
      $$ begin perform pg_temp.evil(%5$L); return null; end $$',
    'operator_' || o.oid, o.oprleft::regtype, o.oprright::regtype, o.oprresult::regtype,
    'operator ' || o.oprname)
  from pg_operator o where o.oprkind = 'b' and o.oprleft::regtype::text in ({types})
  union all
  select format('create operator pg_temp.%1$s (leftarg = %2$s, rightarg = %3$s,
      function = pg_temp.%4$I)',
    o.oprname, o.oprleft::regtype, o.oprright::regtype, 'operator_' || o.oid)
  from pg_operator o where o.oprkind = 'b' and o.oprleft::regtype::text in ({types})
""".replace(
    "{types}",
    "'uuid', 'text', 'jsonb', 'integer', 'bigint', 'real', 'double precision', 'numeric',"
    "'boolean', 'timestamp with time zone', 'interval', 'name', 'oid', 'anyarray', 'regclass'",
)

_CALLABLE = """
select p.oid::regprocedure::text as signature, n.nspname::text as schema, p.proname::text as name,
  p.prosecdef as definer,
  array(select a.name from unnest(p.proargnames) with ordinality as a (name, i)
    where a.i <= p.pronargs order by a.i) as names,
  array(select format('%I.%I', tn.nspname, t.typname)
    from unnest(p.proargtypes) with ordinality as a (type, i)
    join pg_type t on t.oid = a.type join pg_namespace tn on tn.oid = t.typnamespace
    order by a.i)::text[] as types
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname in ('public', 'picture_queue') and has_function_privilege($1, p.oid, 'execute')
  and p.prorettype <> 'trigger'::regtype and p.prokind = 'f'
order by 1
"""


async def create_shadowing_objects(db: Any, role: str, composites: bool) -> None:
    """Create temporary objects with the names of all objects that a function could use."""
    await db.execute(f"set local role {role}; set local search_path = pg_catalog, pg_temp")
    await db.execute(_EVIL.format(role=role))
    makes = _COMPOSITES if composites else [_DOMAIN]
    for statements in (*(_TYPES.format(make=make) for make in makes), _OPERATORS, _FUNCTIONS):
        await db.execute(_CREATE_EACH.format(statements=statements))
    await db.execute(_CREATE_EACH.format(statements=_RELATIONS))
    await db.execute("set local search_path = pg_temp, public")


def argument(name: str, type_: str, known_arguments: dict[str, Any]) -> Any:
    """Return the text of an argument: its known value, or else any value of its type."""
    name = name.removeprefix("p_")
    if name in known_arguments:
        value = known_arguments[name]
        return value if value is None or isinstance(value, str) else json.dumps(value)
    return {"uuid": known_arguments.get("job_id"), "jsonb": "{}", "text": "x", "int4": "1"}.get(
        type_.rpartition(".")[2]
    )


async def call(db: Any, function: Any, known_arguments: dict[str, Any]) -> str:
    """Call a function and ignore its result; return the SQLSTATE of an error."""
    passed, values = [], []
    for name, type_ in zip(function["names"], function["types"], strict=True):
        array = type_.startswith("pg_catalog._")
        value = argument(name, type_, known_arguments)
        if value is None and (name not in known_arguments and not name.startswith("p_")):
            continue
        if array:
            value = "{" + ",".join(json.loads(value or "[]")) + "}"
        values.append(value)
        # The cast uses the qualified type name, because the statement is run as the caller.
        passed.append(f'"{name}" => ${len(values)}::pg_catalog.text::{type_}')
    named = f'"{function["schema"]}"."{function["name"]}"'
    savepoint = db.transaction()
    await savepoint.start()
    try:
        await db.fetch(f"select pg_catalog.count(r) from {named}({', '.join(passed)}) r", *values)
    except asyncpg.PostgresError as error:
        return error.sqlstate
    finally:
        await savepoint.rollback()
    return ""


@pytest.mark.parametrize("composites", [False, True], ids=["domains", "casts"])
@pytest.mark.parametrize("role", ROLES)
async def test_no_temporary_object_runs_as_another_role(
    project: SampleProject, admin: Any, role: str, composites: bool
):
    notices: list[str] = []
    admin.add_log_listener(lambda _, message: notices.append(message.message))
    functions = await admin.fetch(_CALLABLE, role)
    definers = [function["name"] for function in functions if function["definer"]]
    if role == "authenticated":
        assert sorted(definers) == [
            "cancel_generation_batch", "cancel_job", "delete_generation", "explain_jobs",
            "get_account", "job_position", "list_models", "may_read_picture", "may_upload",
            "search_generations",
            "set_favourite", "start_generation", "start_generations",
        ]  # fmt: skip
    else:
        assert len(definers) > 30
    relations = await admin.fetch(
        """select c.oid::regclass::text as name from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v')
          and has_table_privilege($1, c.oid, 'select')""",
        role,
    )
    outer = admin.transaction()
    await outer.start()
    try:
        await _create_vulnerable_functions(admin)
        claims = {"role": role, "sub": project.users["owner"]}
        await admin.fetchval(
            "select set_config('request.jwt.claims', $1, true)", json.dumps(claims)
        )
        await create_shadowing_objects(admin, role, composites)
        # The attack works on functions that are vulnerable on purpose.
        for canary in ("by_type('6f1d1c8e-0000-4000-8000-000000000000')", "by_relation()"):
            notices.clear()
            try:
                async with admin.transaction():
                    await admin.fetchval(f"select public.canary_{canary}")
            except asyncpg.PostgresError:
                pass
            assert any("EVIL" in notice for notice in notices), (canary, notices)
        notices.clear()
        states, reports = {}, {}
        for function in functions:
            arguments = CALLS[function["name"]](project) if function["name"] in CALLS else {}
            known_arguments = {"job_id": project["pending"], **arguments}
            states[function["signature"]] = await call(admin, function, known_arguments)
            reports[function["signature"]] = [n for n in notices if n.startswith("EVIL")]
            notices.clear()
        for relation in relations:
            await admin.fetch(f"select pg_catalog.count(*) from {_qualified(relation['name'])}")
        reports["views"] = [notice for notice in notices if notice.startswith("EVIL")]
        assert {name: report for name, report in reports.items() if report} == {}
        # Most calls must have run the body of the function, not failed on their arguments.
        completed = [
            name for name, state in states.items() if state == "" or state.startswith("PT")
        ]
        assert len(completed) >= 0.9 * len(states), states
    finally:
        await outer.rollback()


def _qualified(name: str) -> str:
    return name if "." in name else f"public.{name}"


async def _create_vulnerable_functions(db: Any) -> None:
    """Create definer functions that use a temporary type or a temporary relation."""
    await db.execute(
        """create function public.canary_by_type(value text) returns text
        language plpgsql security definer set search_path = ''
        as $$ begin return value::uuid; end $$;
        create function public.canary_by_relation() returns bigint
        language plpgsql security definer set search_path = pg_catalog, pg_temp
        as $$ begin return (select count(*) from job_queue); end $$;
        grant execute on function public.canary_by_type, public.canary_by_relation
          to authenticated, service_role"""
    )


async def test_every_function_has_a_fixed_path_and_qualified_types(admin):
    # Postgres would look up a type without a schema that is not in pg_catalog in pg_temp, where a
    # caller can create such a type.
    functions = await admin.fetch(
        """select p.oid, p.oid::regprocedure::text as name, p.proconfig as config,
          p.prosrc as source, l.lanname as language
        from pg_proc p join pg_language l on l.oid = p.prolang
        where p.pronamespace in ('public'::regnamespace, 'picture_queue'::regnamespace)
          and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"""
    )
    assert len(functions) > 200
    known = {
        row[0]
        for row in await admin.fetch(
            "select typname::text from pg_type where typnamespace = 'pg_catalog'::regnamespace"
        )
    } | {"integer", "bigint", "smallint", "real", "boolean", "double", "timestamp", "char"}
    for function in functions:
        config = function["config"] or []
        assert "search_path=pg_catalog, pg_temp" in config, function["name"]
        casts = re.findall(r"::\s*([a-z_0-9]+)(?!\w*\s*\.)\b", function["source"])
        casts += re.findall(r"\bcast\s*\([^()]* as ([a-z_0-9]+)\)", function["source"])
        assert set(casts) <= known, function["name"]
        # The validator looks up types of variables, and in SQL functions all types.
        validator = {"plpgsql": "plpgsql_validator", "sql": "fmgr_sql_validator"}
        await admin.execute(f"select {validator[function['language']]}({function['oid']})")
    polymorphic = await admin.fetch(
        """select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace in ('public'::regnamespace, 'picture_queue'::regnamespace)
          and p.prosecdef and exists (select from unnest(p.proargtypes) a (type)
            join pg_type t on t.oid = a.type where t.typtype = 'p' and t.typname <> 'trigger')"""
    )
    # A definer function with a polymorphic parameter would run operators of the caller's type.
    assert polymorphic == []


#: Deferred constraints of a temporary table: they run code of the caller when they are checked.
_DEFERRED = {
    "trigger": """
create temp table bait (n integer);
create constraint trigger evil after insert on bait deferrable initially deferred
for each row execute function pg_temp.evil_row();
insert into bait values (1);
""",
    "exclusion": """
create function pg_temp.evil_index(n integer) returns boolean language plpgsql immutable as
$$ begin return pg_temp.evil('exclusion'); end $$;
create temp table bait (
  n integer, exclude using btree ((pg_temp.evil_index(n)) with =) deferrable initially deferred);
insert into bait values (1), (1);
""",
    "name of a foreign key": """
create temp table bait (n integer);
create constraint trigger evil after insert on bait deferrable initially deferred
for each row execute function pg_temp.evil_row();
create temp table decoy (n integer primary key);
create temp table decoys (
  n integer constraint evil references decoy deferrable initially deferred);
insert into bait values (1);
""",
    # The cast runs as the caller, but could set the search_path of the owner's function.
    "cast of a foreign key": """
create type pg_temp.key as (n integer);
create function pg_temp.evil_cast(key pg_temp.key) returns integer language plpgsql as $$
begin
  if current_setting('search_path') = 'pg_catalog, pg_temp' then
    raise notice 'EVIL: cast inside a function of the owner';
  end if;
  return key.n;
end $$;
create cast (pg_temp.key as integer) with function pg_temp.evil_cast(pg_temp.key) as implicit;
create temp table bait (n integer primary key);
create temp table baits (n pg_temp.key references bait deferrable initially deferred);
insert into bait values (1);
insert into baits values (row(1)::pg_temp.key);
""",
    # Postgres does not restore the state of a trigger when it rolls back to the outer savepoint. So
    # any `set constraints ... immediate` would fire it.
    "trigger that is immediate": """
create temp table bait (n integer);
create constraint trigger evil after insert on bait deferrable initially deferred
for each row execute function pg_temp.evil_row();
insert into bait values (1);
savepoint a; savepoint b; set constraints pg_temp.evil immediate; release b; rollback to a;
""",
    "trigger on a table of the project": """
create function pg_temp.evil_path() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp as $$ begin perform pg_temp.evil('path'); return null; end $$;
create constraint trigger note_job after insert on public.visit deferrable initially deferred
for each row execute function pg_temp.evil_path();
insert into public.visit values (1);
""",
}


@pytest.mark.parametrize("kind", _DEFERRED)
@pytest.mark.parametrize("role", ROLES)
async def test_no_deferred_constraint_of_the_caller_is_checked_by_the_owner(
    debian: Any, role: str, kind: str
):
    # Before Postgres 18, a deferred check runs with the role that is current at the check.
    admin = await asyncpg.connect(debian.db_url, timeout=10)
    notices: list[str] = []
    admin.add_log_listener(lambda _, message: notices.append(message.message))
    user_id = "6f1d1c8e-0000-4000-8000-000000000001"
    outer = admin.transaction()
    await outer.start()
    try:
        await admin.execute(
            """create function public.of_project() returns trigger language plpgsql
            as $$ begin return new; end $$;
            create trigger of_project after update on public.job_queue
            for each row execute function public.of_project();
            create table public.note (
              job_id uuid constraint note_job references public.job_queue
                deferrable initially deferred);
            create table public.visit (n integer);
            grant insert, trigger on public.visit to authenticated, service_role"""
        )
        job_id = await admin.fetchval(
            "select public.enqueue_job('deferred', user_id => $1::text::uuid)", user_id
        )
        claims = {"role": role, "sub": user_id}
        await admin.fetchval(
            "select set_config('request.jwt.claims', $1, true)", json.dumps(claims)
        )
        await admin.execute(f"set local role {role}; set local picture_queue.is_worker = 'true'")
        await admin.execute(_EVIL.format(role=role) + _DEFERRED[kind])
        await admin.fetchval("select public.cancel_job($1)", job_id)
        if role == "service_role":
            await admin.fetchval("select public.maintain_jobs(true)")
        assert [notice for notice in notices if notice.startswith("EVIL")] == []
    finally:
        await outer.rollback()
        await admin.close(timeout=5)


@pytest.mark.parametrize("role", ROLES)
async def test_no_caller_can_fire_a_deferred_trigger_of_the_project_early(debian: Any, role: str):
    """An early trigger would run with the owner's search_path and use a table of the caller."""
    admin = await asyncpg.connect(debian.db_url, timeout=10)
    notices: list[str] = []
    admin.add_log_listener(lambda _, message: notices.append(message.message))
    user_id = "6f1d1c8e-0000-4000-8000-000000000001"
    outer = admin.transaction()
    await outer.start()
    try:
        await admin.execute(
            """create table public.visit (n integer);
            create table public.audit (n integer);
            grant insert on public.visit, public.audit to authenticated, service_role;
            create function public.of_project() returns trigger language plpgsql
            as $$ begin insert into audit values (1); return null; end $$;
            create constraint trigger of_project after insert on public.visit
            deferrable initially deferred for each row execute function public.of_project();
            create trigger of_project after truncate on public.job_queue
            for each statement execute function public.of_project()"""
        )
        job_id = await admin.fetchval(
            "select public.enqueue_job('deferred', user_id => $1::text::uuid)", user_id
        )
        claims = json.dumps({"role": role, "sub": user_id})
        await admin.fetchval("select set_config('request.jwt.claims', $1, true)", claims)
        await admin.execute(f"set local role {role}; set local picture_queue.is_worker = 'true'")
        await admin.execute(
            _EVIL.format(role=role)
            + """create temp table audit (n integer);
            create trigger evil after insert on pg_temp.audit
            for each row execute function pg_temp.evil_row();
            insert into public.visit values (1)"""
        )
        if role == "service_role":
            await admin.fetchval("select public.claim_jobs('w', '{default}', '{deferred}')")
            await admin.fetchval("select public.maintain_jobs(true)")
        await admin.fetchval("select public.cancel_job($1)", job_id)
        assert [notice for notice in notices if notice.startswith("EVIL")] == []
    finally:
        await outer.rollback()
        await admin.close(timeout=5)


async def test_the_doctor_reads_no_view_of_another_role(debian: Any):
    """A role that may create schemas gives its views the names of pg_cron's tables."""
    admin = await asyncpg.connect(debian.superuser_url, timeout=10)
    notices: list[str] = []
    admin.add_log_listener(lambda _, message: notices.append(message.message))
    outer = admin.transaction()
    await outer.start()
    try:
        await admin.execute(
            """grant create on database postgres to service_role; set local role service_role;
            create schema cron; grant usage on schema cron to public;
            create function cron.evil() returns boolean language plpgsql
            as $$ begin raise notice 'EVIL runs as %', current_user; return true; end $$;
            create view cron.job as
              select 1 as jobid, true as active, 'process-job-queue' as jobname, '' as command
              where cron.evil();
            create view cron.job_run_details as
              select 1 as jobid, 1 as runid, 'failed' as status, now() as start_time,
                '' as return_message
              where cron.evil();
            grant select on cron.job, cron.job_run_details to public"""
        )
        findings = json.loads(await admin.fetchval("select public.queue_doctor()"))
        assert "pg_cron" in {finding["check"] for finding in findings}
        assert [notice for notice in notices if notice.startswith("EVIL")] == []
    finally:
        await outer.rollback()
        await admin.close(timeout=5)
