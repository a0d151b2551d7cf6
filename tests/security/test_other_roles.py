"""Roles of the project that lack the rights of the owner cannot run code inside our functions.

Such a role creates operators and functions that raise a notice with the word EVIL if they run as
another role. It also creates code that would run when our rows change and that sets the search_path
of the session. The tests run on Postgres 18 and on Postgres 15. On 15, a deferred check runs as the
role that is current at the time of the check.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from picture_queue._resources import migrations
from picture_queue.installation.state import MigrationTool, State
from picture_queue.installation.state import read as read_state
from picture_queue.local.migrate import apply_platform
from tests.databases import connect, database_url, execute
from tests.security.matrix import privileges

USER = "6f1d1c8e-0000-4000-8000-000000000001"

#: Operators of the schema `evil` that Postgres would prefer to the operators of pg_catalog.
OPERATORS = """
create function evil.report(what text) returns void language plpgsql as $$
begin
  if current_user <> '{role}' then
    raise notice 'EVIL: % as %', what, current_user;
    raise exception 'stop';
  end if;
end $$;
do $do$
declare
  v_operator record;
begin
  for v_operator in
    select o.oid, o.oprname as name, o.oprleft::regtype as l, o.oprright::regtype as r,
      o.oprresult::regtype as result
    from pg_operator o where o.oprkind = 'b' and o.oprleft::regtype::text in ('uuid', 'text', 'jsonb',
      'integer', 'bigint', 'real', 'double precision', 'boolean', 'timestamp with time zone', 'interval',
      'uuid[]', 'text[]', 'anyarray', 'anycompatiblearray')
  loop
    begin
      execute format('create function evil.%I(%s, %s) returns %s language plpgsql as
        $$ begin perform evil.report(%L); return null; end $$', 'operator_' || v_operator.oid,
        v_operator.l, v_operator.r, v_operator.result, v_operator.name);
      execute format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.%I)',
        v_operator.name, v_operator.l, v_operator.r, 'operator_' || v_operator.oid);
    exception when others then
      null;
    end;
  end loop;
end $do$;
"""  # noqa: E501
ENQUEUE = "select public.enqueue_job('t', user_id => $1::text::uuid)"
SET_PATH = "perform set_config('search_path', 'evil, pg_catalog', {})"


@pytest.fixture(params=["sandbox", "debian"])
def server(request: pytest.FixtureRequest) -> Any:
    """A stack on the bundled Postgres, and one on Debian's Postgres 15."""
    return request.getfixturevalue(request.param)


@pytest.fixture
async def role(server: Any) -> AsyncIterator[str]:
    """A role of the project without any privilege."""
    name = f"app_{uuid4().hex[:8]}"
    # The session of `postgres` can set the role only if `postgres` is a member of the role.
    await execute(server.superuser_url, f"create role {name}; grant {name} to postgres")
    yield name
    await execute(server.superuser_url, f"drop owned by {name}; drop role {name}")


@asynccontextmanager
async def new_database(server: Any, before: str = "", *, platform: bool = True) -> Any:
    """Create a database and run a statement as the superuser; yield the address for its owner."""
    name = f"roles_{uuid4().hex[:8]}"
    superuser = database_url(server.superuser_url, name)
    await execute(server.superuser_url, f"create database {name} owner postgres")
    try:
        if platform:
            await apply_platform(superuser)
        if before:
            await execute(superuser, before)
        yield database_url(server.db_url, name)
    finally:
        await execute(server.superuser_url, f"drop database {name} with (force)")


async def install(url: str) -> None:
    for _, sql in migrations():
        await execute(url, sql)


@asynccontextmanager
async def session(url: str) -> Any:
    """Open a transaction that is rolled back; yield its connection and the list of its notices."""
    connection = await connect(url)
    notices: list[str] = []
    connection.add_log_listener(lambda _, message: notices.append(message.message))
    outer = connection.transaction()
    await outer.start()
    try:
        yield connection, notices
    finally:
        await outer.rollback()
        await connection.close(timeout=5)


async def findings(db: Any, check: str, text: str = "") -> list[dict[str, Any]]:
    found = await db.fetchval("select public.queue_doctor()")
    return [f for f in found if f["check"] == check and text in f["detail"] and f["remedy"]]


async def set_claims(db: Any, role: str) -> None:
    claims = json.dumps({"role": role, "sub": USER})
    await db.fetchval("select set_config('request.jwt.claims', $1, true)", claims)


def evil(notices: list[str]) -> list[str]:
    return [notice for notice in notices if notice.startswith("EVIL")]


# --- Privileges ---


async def test_default_privileges_of_the_project_give_no_access(server: Any, role: str):
    before = f"""
    alter default privileges for role postgres in schema public grant execute on functions to {role};
    alter default privileges for role postgres in schema public grant all on tables to {role};
    alter default privileges for role postgres grant all on tables to {role} with grant option;
    alter default privileges for role postgres grant all on functions to {role};
    alter default privileges for role postgres grant all on sequences to {role};
    alter default privileges for role postgres grant all on schemas to {role};
    """  # noqa: E501
    async with new_database(server, before) as url:
        await install(url)
        async with session(url) as (db, _):
            # A new partition of the archive would get the default privileges too.
            await db.fetchval("select picture_queue._archive_partition('2031-05-05')")
            assert await privileges(db, "picture_queue", [role]) == {}
            # Every role may use the schema public.
            assert set(await privileges(db, "public", [role])) == {("usage", "public", role)}
            assert await findings(db, "privileges") == []
            # A table of the project does get the default privileges.
            await db.execute("create table public.own (n integer)")
            assert len(await privileges(db, "public", [role])) == 2


@pytest.mark.parametrize(
    ("granted", "text"),
    [
        ("execute on function public.claim_jobs", "execute on public.claim_jobs("),
        ("execute on all functions in schema picture_queue", " others"),
        ("references on public.job_queue", "references on public.job_queue"),
        ("trigger on picture_queue.batch", "trigger on picture_queue.batch"),
        ("select (prompt) on public.generations", "select on column prompt of public.generations"),
        ("select on public.stuck_jobs", "select on public.stuck_jobs"),
        ("update on sequence public.job_queue_seq_seq", "update on public.job_queue_seq_seq"),
        ("create on schema picture_queue", "create on picture_queue"),
    ],
)
async def test_a_privilege_of_another_role_is_found(
    sandbox: Any, grantee: str, granted: str, text: str
):
    async with session(sandbox.superuser_url) as (db, _):
        await db.execute(f"grant {granted} to {grantee}")
        (found,) = await findings(db, "privileges", f"role {grantee} has the privilege ")
        assert found["verdict"] == "bad"
        assert text in found["detail"]
        await db.execute(found["remedy"])
        assert await findings(db, "privileges") == []


@pytest.fixture
async def grantee(sandbox: Any) -> AsyncIterator[str]:
    """A role whose name needs quotes in SQL."""
    name = f'"App {uuid4().hex[:8]}"'
    await execute(sandbox.superuser_url, f"create role {name}")
    yield name
    await execute(sandbox.superuser_url, f"drop role {name}")


@pytest.mark.parametrize(
    ("granted", "text"),
    [
        ("insert on public.job_queue to service_role", "service_role has the privilege insert"),
        ("trigger on public.images to authenticated", "authenticated has the privilege trigger"),
        ("select on public.job_queue to public", "role public has the privilege select"),
        ("usage on schema picture_queue to anon", "role anon has the privilege usage"),
        (
            "select on public.job_queue to service_role with grant option",
            "service_role has the privilege select",
        ),
        (
            "execute on function picture_queue.repair to service_role",
            "service_role has the privilege execute on picture_queue.repair()",
        ),
    ],
)
async def test_an_excess_privilege_of_a_role_of_the_api_is_found(
    sandbox: Any, granted: str, text: str
):
    async with session(sandbox.superuser_url) as (db, _):
        await db.execute(f"grant {granted}")
        (found,) = await findings(db, "privileges", text)
        await db.execute(found["remedy"])
        assert await findings(db, "privileges") == []


# --- Foreign keys ---


@pytest.mark.parametrize("through", ["", "a table of the project"])
@pytest.mark.parametrize("act", ["discard", "prune"])
async def test_no_trigger_of_a_table_that_refers_to_a_job_runs(
    server: Any, role: str, act: str, through: str
):
    parent = "public.note" if through else "public.job_queue"
    async with session(server.superuser_url) as (db, notices):
        await db.execute(
            f"""create schema evil authorization {role}; grant usage on schema evil to public;
            create table public.note (id uuid primary key references public.job_queue on delete cascade);
            alter table public.note owner to postgres;
            grant references on {parent} to {role}; grant select, insert on public.note to {role};
            set local role {role}"""  # noqa: E501
        )
        await db.execute(
            f"""create table evil.ref (job_id uuid references {parent} on delete cascade);
            create function evil.trap() returns trigger language plpgsql as $$
            begin
              raise notice 'EVIL: trigger as %', current_user;
              {SET_PATH.format("false")};
              return null;
            end $$;
            create trigger trap after delete on evil.ref
            for each row execute function evil.trap();"""
            + OPERATORS.format(role=role)
        )
        await db.execute("set local role postgres")
        job_id = await db.fetchval("select public.enqueue_job('kept')")
        await db.fetchval("select public.cancel_job($1)", job_id)
        await db.execute(f"insert into public.note values ('{job_id}')")
        await db.execute("reset role")
        await db.execute(f"insert into evil.ref values ('{job_id}')")
        update = "update public.job_queue set finished_at = now() - interval '1 year' where id = $1"
        await db.execute(update, job_id)
        before = await db.fetchval("show search_path")
        await db.execute("set local role service_role")

        async def delete() -> Any:
            if act == "prune":
                return (await db.fetchval("select public.maintain_jobs(true)"))["pruned"]
            call = "select public.change_jobs('discard', '{\"job_type\": \"kept\"}')"
            async with db.transaction():
                return (await db.fetchval(call))["changed"]

        if act == "prune":
            assert await delete() == 0
            assert await db.fetchval("select count(*) from public.job_queue") > 0
        else:
            with pytest.raises(asyncpg.PostgresError, match="PQ_CONFLICT") as refused:
                await delete()
            assert f"table evil.ref of role {role} refers to {parent}" in refused.value.detail
        assert evil(notices) == []
        assert await db.fetchval("show search_path") == before
        (found,) = await findings(db, "exposure", "table evil.ref of role")
        assert found["verdict"] == "bad"
        await db.execute("reset role")
        await db.execute(found["remedy"])
        assert await findings(db, "exposure", "evil.ref") == []
        await db.execute("set local role service_role")
        assert await delete() > 0
        assert evil(notices) == []


@pytest.mark.parametrize("table", ["public.job_queue", "public.note"])
async def test_no_deferred_foreign_key_to_a_table_of_another_role_is_checked(
    server: Any, role: str, table: str
):
    async with session(server.superuser_url) as (db, notices):
        await db.execute(
            f"""create schema evil authorization {role}; grant usage on schema evil to public;
            create table public.note (user_id uuid);
            alter table public.note owner to postgres;
            grant insert on public.note to service_role;
            create function public.of_project() returns trigger language plpgsql
            set search_path = public, pg_temp as $$ begin return new; end $$;
            create trigger of_project before update on public.job_queue
            for each row execute function public.of_project();
            set local role {role}"""
        )
        # Postgres runs the function when it plans the check.
        await db.execute(
            f"""create table evil.account (id uuid primary key);
            grant references on evil.account to postgres;
            insert into evil.account values ('{USER}');
            create function evil.trap(n integer) returns boolean language plpgsql immutable as $$
            begin
              raise notice 'EVIL: index as %', current_user;
              {SET_PATH.format("true")};
              return true;
            end $$;
            create index trap on evil.account (id) where evil.trap(1);"""
            + OPERATORS.format(role=role)
        )
        await db.execute("set local role postgres")
        await db.execute(
            f"""alter table {table} add constraint evil_key foreign key (user_id)
            references evil.account deferrable initially deferred not valid"""
        )
        await set_claims(db, "service_role")
        await db.execute("set local role service_role")
        job_id = await db.fetchval(ENQUEUE, USER)
        if table == "public.note":
            await db.execute(f"insert into public.note values ('{USER}')")
        notices.clear()
        await db.fetchval("select public.claim_jobs('w', '{default}', '{t}')")
        await db.fetchval("select public.cancel_job($1)", job_id)
        await db.fetchval("select public.maintain_jobs(true)")
        assert evil(notices) == []
        found = await findings(db, "exposure", "refers to table evil.account of role")
        assert [f["verdict"] for f in found] == (["bad"] if table == "public.job_queue" else [])
        # Postgres alters no table with pending checks.
        await db.execute("reset role; set constraints all immediate")
        for finding in found:
            await db.execute(finding["remedy"])
        assert await findings(db, "exposure", "evil.account") == []


# --- Tables and functions of extensions and of Supabase ---


async def test_the_doctor_reads_no_bucket_of_another_role(server: Any, role: str):
    async with session(server.superuser_url) as (db, notices):
        await db.execute(
            f"""alter schema storage rename to storage_before;
            create schema storage authorization {role}; grant usage on schema storage to public;
            set local role {role};
            create table storage.buckets (id text, public boolean);
            grant select on storage.buckets to public;
            create function storage.trap(n integer) returns boolean language plpgsql immutable as $$
            begin raise notice 'EVIL: index as %', current_user; return true; end $$;
            create index trap on storage.buckets (id) where storage.trap(1);
            set local role service_role"""
        )
        notices.clear()
        (found,) = await findings(db, "storage")
        assert f"it belongs to the role {role}" in found["detail"]
        assert found["verdict"] == "bad"
        assert evil(notices) == []


async def test_pg_cron_is_called_only_if_it_is_the_extension(server: Any, role: str):
    async with session(server.superuser_url) as (db, notices):
        await db.execute(
            f"""drop schema if exists cron cascade; create schema cron authorization {role};
            grant usage on schema cron to public; set local role {role};
            create function cron.schedule(a text, b text, c text) returns integer language plpgsql as $$
            begin raise notice 'EVIL: schedule as %', current_user; return 1; end $$;
            set local role postgres"""  # noqa: E501
        )
        answer = await db.fetchval("select picture_queue.schedule_maintenance()")
        assert (answer, evil(notices)) == ("pg_cron is not installed", [])


async def test_an_installation_uses_no_object_of_another_role(server: Any, role: str):
    """Another role owns the schemas cron, realtime and storage, and operators in two schemas."""
    before = f"""
    create schema auth;
    create function auth.uid() returns uuid language sql stable as 'select null::uuid';
    alter schema auth owner to postgres; grant usage on schema auth to public;
    create schema evil authorization {role}; grant create on schema public to {role};
    create schema cron authorization {role}; create schema realtime authorization {role};
    create schema storage authorization {role};
    grant usage on schema evil, cron, realtime, storage to public;
    set role {role};
    {OPERATORS.format(role=role)}
    create function evil.row() returns trigger language plpgsql as $$
    begin raise notice 'EVIL: trigger as %', current_user; return new; end $$;
    create function cron.schedule(a text, b text, c text) returns integer language plpgsql as $$
    begin raise notice 'EVIL: schedule as %', current_user; return 1; end $$;
    create table realtime.messages (topic text, extension text, event text, payload jsonb, private boolean);
    create table storage.buckets (id text, name text, public boolean);
    create trigger evil before insert on realtime.messages for each row execute function evil.row();
    create trigger evil before insert on storage.buckets for each row execute function evil.row();
    grant all on realtime.messages, storage.buckets to public;
    create function public.above(a real, b integer) returns boolean language plpgsql immutable as $$
    begin raise notice 'EVIL: operator as %', current_user; return true; end $$;
    create operator public.> (leftarg = real, rightarg = integer, function = public.above);
    create function public.at_most(a real, b integer) returns boolean language plpgsql immutable as $$
    begin raise notice 'EVIL: operator as %', current_user; return true; end $$;
    create operator public.<= (leftarg = real, rightarg = integer, function = public.at_most);
    reset role;
    """  # noqa: E501
    async with new_database(server, before, platform=False) as url:
        connection = await connect(url)
        notices: list[str] = []
        connection.add_log_listener(lambda _, message: notices.append(message.message))
        try:
            # With this search_path Postgres prefers the role's operators to those of pg_catalog.
            await connection.execute("set search_path = evil, public, pg_catalog")
            for _, sql in migrations():
                await connection.execute(sql)
            assert await connection.fetchval("show search_path") == "evil, public, pg_catalog"
            await connection.execute("reset search_path")
            await connection.fetchval("select public.set_queue('q', '{\"timeout_seconds\": 5}')")
            await connection.fetchval("select public.enqueue_job('t')")
            assert evil(notices) == []
            (found,) = await findings(connection, "realtime in SQL")
            assert f"it belongs to the role {role}" in found["detail"]
        finally:
            await connection.close(timeout=5)


async def test_no_list_of_migrations_of_another_role_is_read(server: Any, role: str):
    before = f"""
    create schema supabase_migrations authorization {role};
    grant usage on schema supabase_migrations to public;
    set role {role};
    create table supabase_migrations.schema_migrations (version text, name text);
    grant select on supabase_migrations.schema_migrations to public;
    create function supabase_migrations.trap(n integer) returns boolean language plpgsql immutable
    as $$ begin raise notice 'EVIL: index as %', current_user; return true; end $$;
    create index trap on supabase_migrations.schema_migrations (name)
    where supabase_migrations.trap(1);
    reset role;
    """
    notices: list[str] = []

    def read(url: str) -> State:
        with psycopg.connect(url) as connection:
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
            return read_state(connection, migrations())

    async with new_database(server, before, platform=False) as url:
        assert (await asyncio.to_thread(read, url)).tool is MigrationTool.NONE
        assert evil(notices) == []


# --- Code of the project that a caller could influence ---

_FUNCTION = (
    "create function public.of_project({}) returns {} language plpgsql {} as $$ begin {} end $$;"
)


@pytest.mark.parametrize(
    ("statements", "text"),
    [
        (
            "create table public.note ("
            "id uuid primary key references public.job_queue on delete cascade);"
            "create table public.notes (id uuid references public.note on delete set null);"
            + _FUNCTION.format("", "trigger", "", "return null;")
            + "create trigger seen after update on public.notes for each row"
            " execute function public.of_project()",
            "trigger seen on public.notes may use temporary objects",
        ),
        (
            _FUNCTION.format("", "event_trigger", "", "null;")
            + "alter function public.of_project owner to postgres;"
            "create event trigger seen on ddl_command_end execute function public.of_project()",
            "event trigger seen may use temporary objects",
        ),
        (
            _FUNCTION.format("a text", "boolean", "immutable", "return true;")
            + "alter table public.job_queue add constraint seen check (public.of_project(queue))",
            "constraint seen on table public.job_queue may use temporary objects",
        ),
        (
            _FUNCTION.format("", "text", "", "return '';")
            + "alter table public.generations add column seen text default public.of_project()",
            "default value for column seen of table public.generations may use temporary objects",
        ),
        (
            _FUNCTION.format("a text", "text", "immutable", "return a;")
            + "create index seen on public.job_queue (public.of_project(queue))",
            "index public.seen may use temporary objects",
        ),
    ],
    ids=["trigger of a referring table", "event trigger", "check", "default", "index"],
)  # fmt: skip
async def test_code_of_the_project_without_a_search_path_is_found(
    sandbox: Any, statements: str, text: str
):
    async with session(sandbox.superuser_url) as (db, _):
        before = await findings(db, "exposure")
        await db.execute(statements)
        found = [f for f in await findings(db, "exposure") if f not in before]
        assert [f["verdict"] for f in found] == ["warn"]
        assert text in found[0]["detail"]
        await db.execute(found[0]["remedy"])
        assert await findings(db, "exposure") == before


async def test_a_trigger_function_of_another_role_is_found(sandbox: Any, grantee: str):
    async with session(sandbox.superuser_url) as (db, _):
        await db.execute(
            _FUNCTION.format("", "trigger", "set search_path = public, pg_temp", "return new;")
            + f"alter function public.of_project owner to {grantee};"
            "create trigger seen before update on public.job_queue for each row"
            " execute function public.of_project()"
        )
        (found,) = await findings(db, "exposure", "trigger seen on public.job_queue runs code")
        assert (found["verdict"], grantee in found["detail"]) == ("bad", True)
        await db.execute(found["remedy"])
        assert await findings(db, "exposure", "seen") == []


# --- Sessions of users ---


async def test_a_user_who_has_little_stack_left_does_not_lose_a_callback(server: Any):
    """A recursive function calls `cancel_job` at a depth at which only the callback fails."""
    async with session(server.db_url) as (db, _):
        await db.execute(
            """create function pg_temp.deep(n integer, job uuid) returns text language plpgsql as $$
            begin
              if n = 0 then
                return public.cancel_job(job)::text;
              end if;
              return pg_temp.deep(n - 1, job);
            end $$"""
        )
        await set_claims(db, "authenticated")
        states = set()
        query = "select callback_job_id, callback_error from picture_queue.batch where id = $1"

        async def try_depth(depth: int) -> str:
            """Call cancel_job at a depth of recursion.

            Returns:
                "refused" if the call failed, "enqueued" if it enqueued the callback, and "later" if
                maintenance enqueued the callback.
            """
            savepoint = db.transaction()
            await savepoint.start()
            try:
                await db.execute("reset role")
                answer = await db.fetchval(
                    "select public.enqueue_batch($1, $2)",
                    [{"job_type": "t", "user_id": USER}],
                    {"job_type": "summary"},
                )
                try:
                    async with db.transaction():
                        await db.execute("set local role authenticated")
                        await db.fetchval(
                            "select pg_temp.deep($1, $2)", depth, answer["jobs"][0]["job_id"]
                        )
                except asyncpg.PostgresError:
                    return "refused"
                await db.execute("reset role")
                row = await db.fetchrow(query, answer["batch_id"])
                assert row["callback_error"] is None, depth
                if row["callback_job_id"]:
                    return "enqueued"
                await db.execute("delete from picture_queue.failed_step")  # Retry at once.
                await db.fetchval("select picture_queue.maintain()")
                row = await db.fetchrow(query, answer["batch_id"])
                assert row["callback_job_id"] is not None
                return "later"
            finally:
                await savepoint.rollback()

        low, high = 0, 20000  # The call succeeds at depth `low` and is refused at depth `high`.
        while high - low > 1:
            middle = (low + high) // 2
            state = await try_depth(middle)
            states.add(state)
            low, high = (low, middle) if state == "refused" else (middle, high)
        for depth in range(low - 1, max(low - 60, 0), -1):
            states.add(state := await try_depth(depth))
            if state == "enqueued":
                break
        assert states == {"refused", "later", "enqueued"}


@pytest.mark.parametrize("digits", [-15, -11, 0])
async def test_a_user_cannot_choose_a_place_by_rounding_it(sandbox: Any, digits: int):
    async with session(sandbox.db_url) as (db, _):
        queue = f"q-{uuid4().hex[:12]}"
        await db.fetchval("select set_queue($1, $2)", queue, {"aging_seconds": 60})
        enqueue = "select enqueue_job('t', queue => $1)"
        turns = []
        for setting in (1, digits, 1):
            await db.execute(f"set local extra_float_digits = {setting}")
            job_id = await db.fetchval(enqueue, queue)
            await db.execute("set local extra_float_digits = 1")
            turns.append(await db.fetchval("select turn from job_queue where id = $1", job_id))
        assert turns[0] < turns[1] < turns[2]


async def test_a_user_who_sets_their_own_topic_reads_no_messages_of_others(sandbox: Any):
    other = "6f1d1c8e-0000-4000-8000-000000000002"
    async with session(sandbox.db_url) as (db, _):
        for user in (USER, other):
            await db.fetchval(ENQUEUE, user)
        await set_claims(db, "authenticated")
        await db.execute(
            f"set local role authenticated; set local realtime.topic = 'pq:user:{USER}'"
        )
        rows = await db.fetch("select distinct topic from realtime.messages")
        assert [row["topic"] for row in rows] == [f"pq:user:{USER}"]
