"""Roles of the project that lack the rights of the owner cannot run code inside our functions.

Such a role creates operators and functions that report if they run as another role, and sets the
search_path of the session in code that a change of our rows would run. On Postgres 18, and on 15,
where a deferred check runs as the role that is current at the check.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from picture_queue._resources import migrations
from picture_queue.local.migrate import apply_platform
from tests.databases import address, connect, execute
from tests.security.matrix import privileges

USER = "6f1d1c8e-0000-4000-8000-000000000001"

#: Operators of the schema `evil` that fit better than those of pg_catalog, or come before them.
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
    """A role of the project with no rights at all."""
    name = f"app_{uuid4().hex[:8]}"
    # The platform forbids to set a role in a session without membership in it.
    await execute(server.superuser_url, f"create role {name}; grant {name} to postgres")
    yield name
    await execute(server.superuser_url, f"drop owned by {name}; drop role {name}")


@asynccontextmanager
async def new_database(server: Any, before: str = "", *, platform: bool = True) -> Any:
    """Create a database and run a statement as the superuser; yield the address for its owner."""
    name = f"roles_{uuid4().hex[:8]}"
    superuser = address(server.superuser_url, name)
    await execute(server.superuser_url, f"create database {name} owner postgres")
    try:
        if platform:
            await apply_platform(superuser)
        if before:
            await execute(superuser, before)
        yield address(server.db_url, name)
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
            # A new partition of the archive gets them too.
            await db.fetchval("select picture_queue._archive_partition('2031-05-05')")
            assert await privileges(db, "picture_queue", [role]) == {}
            # Every role may use the schema public.
            assert set(await privileges(db, "public", [role])) == {("usage", "public", role)}
            assert await findings(db, "privileges") == []
            await db.execute("create table public.own (n integer)")  # Objects of the project do.
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
    """A role of the bundled Postgres, whose name has to be quoted."""
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
