"""The role `postgres` cannot get the privileges of the superuser or of the stack's system user.

Code that this role attaches to a table runs in the sessions of the services that write to the
table, or with the privileges of the table's owner. The tests attach a spy function in each such
place. The spy sets each role that the session may set. As each role it tries to run a program and
to read a file.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from realtime import AsyncRealtimeClient

from picture_queue.local import stack as local
from picture_queue.local.keys import Secrets
from picture_queue.local.stack import LocalSupabase

from ..databases import execute, role_url
from .conftest import DEBIAN_POSTGRES_15
from .spy import ATTACH_SPY, PERMISSIVE_POLICIES, SPY

API_ROLES = {"anon", "authenticated", "service_role"}
OWNERS = {
    "auth": "supabase_auth_admin",
    "realtime": "supabase_realtime_admin",
    "storage": "supabase_storage_admin",
}
#: For each service: its login role, and the roles that its sessions may set.
SESSIONS = {
    "auth": {"supabase_auth_admin"},
    "realtime": {"supabase_realtime_admin"} | API_ROLES,
    "storage": {"supabase_storage_admin"} | API_ROLES,
    "rest": {"authenticator"} | API_ROLES,
}
TABLES = (
    "auth.users",
    "auth.sessions",
    "auth.refresh_tokens",
    "realtime.messages",
    "storage.buckets",
    "storage.objects",
)
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module", params=["embedded", pytest.param("15", marks=pytest.mark.extra)])
def attacked_stack(request: pytest.FixtureRequest) -> Iterator[LocalSupabase]:
    """A separate stack, on the bundled Postgres and on Postgres 15, which has other role rules."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "15":
            assert DEBIAN_POSTGRES_15.exists(), "apt-get install postgresql-15"
            patch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(DEBIAN_POSTGRES_15))
        with LocalSupabase(durable=False) as stack:
            yield stack


@pytest.fixture(scope="module")
def proof() -> Iterator[Path]:
    """The file that the attacker's program would write; the stack's user can write it."""
    directory = local._temporary_directory()
    directory.chmod(0o777)
    yield directory / "proof"
    shutil.rmtree(directory)


@pytest.fixture
async def connection(attacked_stack: LocalSupabase) -> Any:
    """A connection as the role `postgres`."""
    connection = await asyncpg.connect(attacked_stack.db_url, timeout=10)
    yield connection
    await connection.close(timeout=5)


def read_findings(stack: LocalSupabase) -> list[dict[str, Any]]:
    log = (stack.data_dir / "logs" / "postgres.log").read_text(encoding="utf-8", errors="replace")
    return [json.loads(found) for found in re.findall(r"SPY (\{.*\})", log)]


async def use_every_service(stack: LocalSupabase) -> None:
    """Write to each table of the services through the gateway, with a service key and as a user."""
    headers = {"apikey": stack.service_role_key}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=30) as http:

        async def call(method: str, path: str, status: int = 200, **request: Any) -> Any:
            answer = await http.request(method, path, **request)
            assert answer.status_code == status, (path, answer.text)
            return answer.json() if answer.content else None

        account = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
        await call("POST", "/auth/v1/signup", json=account)
        session = await call("POST", "/auth/v1/token?grant_type=password", json=account)
        renewal = {"refresh_token": session["refresh_token"]}
        session = await call("POST", "/auth/v1/token?grant_type=refresh_token", json=renewal)
        as_user = {"headers": {"Authorization": f"Bearer {session['access_token']}"}}
        await call("PUT", "/auth/v1/user", json={"data": {"a": 1}}, **as_user)

        bucket = f"spied-{uuid4().hex[:8]}"
        await call("POST", "/storage/v1/bucket", json={"id": bucket, "name": bucket})
        for request in ({}, as_user):
            name = f"{bucket}/{uuid4().hex}.txt"
            await call("POST", f"/storage/v1/object/{name}", content=b"x", **request)
        await call("GET", f"/storage/v1/object/info/{name}", **as_user)
        source = {"bucketId": bucket, "sourceKey": name.partition("/")[2]}
        await call("POST", "/storage/v1/object/copy", json=source | {"destinationKey": "b.txt"})
        await call("POST", "/storage/v1/object/move", json=source | {"destinationKey": "c.txt"})
        await call("DELETE", f"/storage/v1/object/{bucket}", json={"prefixes": ["b.txt"]})
        await call("POST", f"/storage/v1/bucket/{bucket}/empty")

        message = {"topic": "spied", "event": "e", "payload": {}, "private": True}
        broadcast = "/realtime/v1/api/broadcast"
        await call("POST", broadcast, 202, json={"messages": [message]})
        async with asyncio.timeout(20):  # Postgres notifies PostgREST of the new function
            while (await http.post("/rest/v1/rpc/spy_rest")).status_code == 404:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await call("POST", "/rest/v1/rpc/spy_rest", 204)
        client = AsyncRealtimeClient(f"{stack.api_url}/realtime/v1", stack.anon_key)
        await client.set_auth(session["access_token"])
        states: asyncio.Queue[Any] = asyncio.Queue()
        channel = client.channel("spied", {"config": {"private": True}})
        await channel.subscribe(lambda *state: states.put_nowait(state))
        async with asyncio.timeout(20):
            assert "SUBSCRIBED" in str((await states.get())[0])
        await client.close()
        await call("POST", "/auth/v1/logout", 204, **as_user)
        await call("DELETE", f"/auth/v1/admin/users/{session['user']['id']}")


async def test_code_attached_to_a_table_runs_as_the_service_that_writes_it(
    attacked_stack: LocalSupabase, connection: Any, proof: Path
):
    await connection.execute(SPY % {"proof": proof})
    for table in TABLES:
        await connection.execute(
            f"create trigger spy before insert or update or delete on {table}"
            " for each row execute function public.spy_row()"
        )
    await connection.execute(ATTACH_SPY)
    before = len(read_findings(attacked_stack))
    await use_every_service(attacked_stack)
    found = read_findings(attacked_stack)[before:]
    places = {f"{table} trigger" for table in TABLES} | set(
        re.findall(r"'(\S+ (?:policy|default|check|function))'", ATTACH_SPY)
    )
    assert {finding["place"] for finding in found} == places
    for place in places:
        allowed, used = SESSIONS[re.split(r"[. ]", place)[0]], set()
        for finding in found:
            if finding["place"] == place:
                assert finding["session"] in allowed - API_ROLES, finding
                assert finding["dangerous_rights"] == [], finding
                used |= set(finding["roles"])
        assert used == allowed, place
    assert not await asyncio.to_thread(proof.exists)


async def test_a_cast_in_a_foreign_key_never_runs_as_a_superuser(
    attacked_stack: LocalSupabase, connection: Any, proof: Path
):
    # Postgres runs the cast as the owner of the referenced table, without any trigger.
    key = uuid4()
    await connection.execute(
        f"""insert into auth.users (id) values ('{key}');
        insert into auth.sessions values ('{key}', '{key}', now(), now());
        insert into storage.objects (id) values ('{key}');"""
    )
    before = len(read_findings(attacked_stack))
    tables = ("auth.users", "auth.sessions", "storage.objects")
    for table in tables:
        await connection.execute(
            f"""
            create type public.evil as enum ('{key}');
            create function public.evil_cast(value public.evil) returns uuid
            language plpgsql as $$
            begin
              perform public.spy('{table} cast');
              return '{key}'::uuid;
            end $$;
            create cast (public.evil as uuid) with function public.evil_cast as implicit;
            create table public.evil_child (key public.evil references {table} (id));
            insert into public.evil_child values ('{key}');
            drop table public.evil_child;
            drop type public.evil cascade;
            """
        )
    found = read_findings(attacked_stack)[before:]
    casts = {finding["place"]: finding for finding in found if finding["place"].endswith(" cast")}
    assert set(casts) == {f"{table} cast" for table in tables}
    for place, finding in casts.items():
        assert set(finding["roles"]) == {OWNERS[place.partition(".")[0]]}, finding
        assert finding["dangerous_rights"] == [], finding
    assert not await asyncio.to_thread(proof.exists)


async def test_no_session_of_the_stack_is_a_superuser(attacked_stack: LocalSupabase):
    connection = await asyncpg.connect(attacked_stack.superuser_url)
    sessions = await connection.fetch(
        """select distinct a.usename::text as name, r.rolsuper
        from pg_stat_activity a join pg_roles r on r.oid = a.usesysid
        where a.backend_type = 'client backend' and a.pid <> pg_backend_pid()"""
    )
    rules = await connection.fetch("select distinct auth_method from pg_hba_file_rules")
    await connection.close()
    assert {*OWNERS.values(), "authenticator"} <= {row["name"] for row in sessions}
    assert [row["name"] for row in sessions if row["rolsuper"]] == []
    # Every connection needs a password: also from another user of the machine, and from the
    # database server itself, by an extension such as dblink.
    assert [row["auth_method"] for row in rules] == ["scram-sha-256"]


async def test_the_superuser_owns_no_code_that_runs_with_its_privileges(connection: Any):
    is_not_built_in = "not in ('pg_catalog', 'information_schema', 'pg_toast')"
    owned_by_superusers = await connection.fetch(
        f"""select c.oid::regclass::text from pg_class c
        where c.relnamespace::regnamespace::text {is_not_built_in}
          and (select rolsuper from pg_roles r where r.oid = c.relowner)
        union all
        select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace::regnamespace::text {is_not_built_in} and p.prosecdef
          and (select rolsuper from pg_roles r where r.oid = p.proowner)
        union all
        select s.nspname from pg_namespace s join pg_roles r on r.oid = s.nspowner
        where s.nspname in ('supabase_migrations', 'picture_queue') and r.rolsuper"""
    )
    assert [row[0] for row in owned_by_superusers] == []
    owners = await connection.fetch(
        """select schemaname::text as schema, array_agg(distinct tableowner::text) as owners
        from pg_tables where schemaname in ('auth', 'realtime', 'storage') group by 1"""
    )
    assert {row["schema"]: row["owners"] for row in owners} == {
        schema: [role] for schema, role in OWNERS.items()
    }


@pytest.mark.parametrize("role", sorted(API_ROLES))
async def test_api_roles_cannot_attach_code_to_tables_of_the_services(connection: Any, role: str):
    tables = await connection.fetch(
        """select c.oid::regclass::text as name from pg_class c
        where c.relkind in ('r', 'v', 'p', 'm') and c.relnamespace::regnamespace::text
          in ('auth', 'realtime', 'storage', 'public', 'picture_queue', 'supabase_migrations')"""
    )
    assert {*TABLES} <= {row["name"] for row in tables}
    privileges = "trigger, truncate, references"
    if connection.get_server_version().major >= 17:
        privileges += ", maintain"
    for table in tables:
        has_privilege = await connection.fetchval(
            "select has_table_privilege($1, $2::text::regclass, $3)",
            role,
            table["name"],
            privileges,
        )
        assert not has_privilege, table["name"]
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"set local role {role}")
    await connection.execute(
        "create function pg_temp.mine() returns trigger language plpgsql as $$ begin end $$"
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(
            "create trigger mine before insert on storage.objects"
            " for each row execute function pg_temp.mine()"
        )
    await transaction.rollback()


FORBIDDEN = (
    "alter role postgres superuser",
    "alter role postgres replication",
    "create role more superuser",
    "create role more replication",
    "create role more in role pg_execute_server_program",
    "grant supabase_admin to postgres",
    "grant pg_execute_server_program to postgres",
    "grant pg_read_server_files to postgres",
    "grant pg_write_server_files to postgres",
    "grant pg_execute_server_program to supabase_storage_admin",
    "set session authorization supabase_admin",
    "alter role supabase_admin password 'known'",
    "alter role supabase_auth_admin superuser",
    "alter role postgres set session_preload_libraries = '/tmp/any'",
    "alter role supabase_admin set search_path = public",
    "alter system set archive_command = 'id'",
    "alter database postgres owner to postgres",
    "set session_preload_libraries = '/tmp/any'",
    "load '/tmp/any.so'",
    # The plugin of a replication slot may be a library in any directory.
    "select pg_create_logical_replication_slot('mine', '/tmp/any.so')",
    "select pg_create_physical_replication_slot('mine')",
    "create subscription mine connection 'dbname=postgres' publication p with (connect = false)",
    "create function mine() returns void language c as '/tmp/any.so', 'mine'",
    "create function mine(internal) returns void language internal as 'int4in'",
    "create event trigger mine on ddl_command_end execute function public.spy_row()",
    "create extension dblink",
    "create extension postgres_fdw",
    "create extension file_fdw",
    "create extension adminpack",
    "create extension plpython3u",
    "create foreign data wrapper mine",
    "create language plpython3u",
    "create tablespace mine location '/tmp'",
    "copy (select 1) to program 'id'",
    "copy public.spied from '/etc/passwd'",
    "copy (select 1) to '/tmp/any'",
    "select pg_read_file('pg_hba.conf')",
    "select pg_read_binary_file('../secrets.json')",
    "select pg_stat_file('pg_hba.conf')",
    "select pg_ls_dir('.')",
    "select lo_import('/etc/passwd')",
    "select lo_export(lo_create(0), '/tmp/any')",
    "select * from pg_hba_file_rules",
    "select * from pg_authid",
    "select pg_reload_conf()",
    "select pg_rotate_logfile()",
    "update pg_proc set prosecdef = true",
)
# The errors if privileges are missing, or if this Postgres lacks the feature.
REFUSAL_ERRORS = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedFileError,
    asyncpg.ReservedNameError,
)


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_the_role_postgres_cannot_get_more_privileges(connection: Any, statement: str):
    await connection.execute("create table if not exists public.spied (line text)")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connection.execute(statement)
    # Another error would mean that Postgres looked for the library before it checked privileges.
    loads_library = "load" in statement or "replication_slot" in statement
    assert isinstance(
        refused.value, asyncpg.InsufficientPrivilegeError if loads_library else REFUSAL_ERRORS
    ), refused.value


async def test_a_replication_connection_is_refused(attacked_stack: LocalSupabase):
    # Such a connection could make a base backup, which contains every file of the cluster.
    for url in (
        attacked_stack.db_url,
        *(role_url(attacked_stack, role) for role in OWNERS.values()),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(url, server_settings={"replication": "true"})


def create_old_data(directory: Path) -> None:
    """Create a data directory as an older version of the stack may have left it.

    It has privileges that this version must revoke, and a table and grants of the user that this
    version must keep.
    """
    older_state = """
    alter table auth.users owner to supabase_admin;
    alter table auth.sessions owner to supabase_admin;
    grant all on storage.objects, storage.buckets to anon, authenticated, service_role;
    alter role postgres replication createrole;
    grant pg_execute_server_program, pg_read_all_data, supabase_auth_admin to postgres;
    create role left_behind login replication in role pg_read_server_files;
    create role maker login createrole;
    grant maker to postgres;
    alter role supabase_storage_admin nologin createrole password null;
    alter role supabase_auth_admin nologin createrole password null;
    alter role supabase_realtime_admin nologin password null;
    revoke anon, authenticated, service_role from supabase_storage_admin, supabase_realtime_admin;
    create table public.kept (id int);
    alter table public.kept owner to postgres;
    grant select on auth.users to service_role;
    revoke insert on storage.objects from anon;
    """
    with LocalSupabase(directory, durable=False) as stack:
        asyncio.run(execute(stack.superuser_url, older_state))
        slot = "select pg_create_logical_replication_slot('left', 'pgoutput')"
        asyncio.run(execute(stack.superuser_url, slot))
    secrets = json.loads((directory / "secrets.json").read_text())
    for name in ("auth_password", "realtime_password", "storage_password"):
        del secrets[name]
    (directory / "secrets.json").write_text(json.dumps(secrets))
    (directory / "platform.sha256").write_text("of an older version\n")


@pytest.mark.parametrize("postgres", ["embedded", pytest.param("15", marks=pytest.mark.extra)])
async def test_data_of_an_older_version_gets_the_privileges_of_this_version(
    postgres: str, monkeypatch: pytest.MonkeyPatch
):
    if postgres == "15":
        assert DEBIAN_POSTGRES_15.exists(), "apt-get install postgresql-15"
        monkeypatch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(DEBIAN_POSTGRES_15))
    directory = local._temporary_directory()
    try:
        await asyncio.to_thread(create_old_data, directory)
        first_secrets = None
        for start in range(2):
            async with LocalSupabase(directory, durable=False) as stack:
                secrets = Secrets(**json.loads((directory / "secrets.json").read_text()))
                assert first_secrets in (None, secrets)
                first_secrets = secrets
                connection = await asyncpg.connect(stack.db_url)
                assert await connection.fetchval("select to_regclass('public.kept') is not null")
                for role in sorted(API_ROLES):
                    await test_api_roles_cannot_attach_code_to_tables_of_the_services(
                        connection, role
                    )
                await test_the_superuser_owns_no_code_that_runs_with_its_privileges(connection)
                await test_no_session_of_the_stack_is_a_superuser(stack)
                await test_a_replication_connection_is_refused(stack)
                dangerous_roles = await connection.fetchval(
                    """select count(*) from pg_roles where rolname !~ '^pg_' and not rolsuper
                      and (rolreplication or pg_has_role(oid, 'pg_read_server_files', 'member')
                        or pg_has_role(oid, 'pg_execute_server_program', 'member')
                        or pg_has_role(oid, 'pg_read_all_data', 'member')
                        or rolname <> 'supabase_auth_admin'
                          and pg_has_role(oid, 'supabase_auth_admin', 'member'))"""
                )
                assert dangerous_roles == 0
                # Before Postgres 16, a role that may create roles can grant itself any role that is
                # not a superuser.
                creators = """select coalesce(array_agg(rolname::text order by rolname), '{}')
                  from pg_roles where rolcreaterole and not rolsuper"""
                can_create_roles = connection.get_server_version().major >= 16
                assert await connection.fetchval(creators) == (
                    ["maker", "postgres"] if can_create_roles else []
                )
                grants = "select has_table_privilege('service_role', 'auth.users', 'select')"
                assert await connection.fetchval(grants), "a grant of the user is lost"
                revoked = "select not has_table_privilege('anon', 'storage.objects', 'insert')"
                assert await connection.fetchval(revoked), (
                    "a privilege that the user revoked is restored"
                )
                slots = "select count(*) from pg_replication_slots"
                assert await connection.fetchval(slots) == 0, "a replication slot was kept"
                if start == 0:  # the second start finds the policies in its data
                    await connection.execute(PERMISSIVE_POLICIES)
                await connection.close()
                await use_every_service(stack)
    finally:
        local.reset(directory)
