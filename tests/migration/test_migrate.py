"""`picture-queue migrate` applies the migrations directly, with a role that is not a superuser."""

import asyncio
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from picture_queue._resources import Migration, migrations
from picture_queue.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    InstallationRefused,
    MigrationFailed,
    PictureQueueError,
    SettingsError,
)
from picture_queue.installation.database import LOCK, expect_tool, migrate, pending
from picture_queue.installation.state import MigrationTool
from picture_queue.local.migrate import apply_migrations
from picture_queue.settings import DatabaseSettings

NAMES = [file.name for file in migrations()]
LATER = Migration("20990101000000_post_later.sql", "create table public.later ();")
LIST_APPLIED = "select name from picture_queue.migration order by applied_at, name"


async def run(database: Any) -> list[str]:
    return await asyncio.to_thread(migrate, database.settings, lambda name: None)


async def expect_refusal(database: Any) -> PictureQueueError:
    """Run `migrate`, which must be refused without changes; return the error."""
    before = await database.rows("select oid from pg_class order by 1")
    with pytest.raises(InstallationRefused) as refused:
        await run(database)
    assert await database.rows("select oid from pg_class order by 1") == before
    return refused.value


async def test_a_database_owner_can_install_the_schema(new_database: Any) -> None:
    role = "select rolsuper, rolcreaterole, rolbypassrls from pg_roles where rolname = current_user"
    assert await new_database.rows(role) == [(False, True, True)]
    assert await asyncio.to_thread(pending, new_database.settings) == NAMES
    reported: list[str] = []
    assert (
        await asyncio.to_thread(migrate, new_database.settings, reported.append)
        == NAMES
        == reported
    )
    job = await new_database.value("select enqueue_job('resize', '{}'::jsonb, 0)")
    assert isinstance(job, UUID)
    assert await new_database.value("select id from claim_next_job()") == job
    assert await new_database.value("select complete_job($1, null, null)", job) == "completed"


async def test_an_applied_migration_is_not_applied_again(new_database: Any, ship: Any) -> None:
    await run(new_database)
    assert await run(new_database) == [] == await asyncio.to_thread(pending, new_database.settings)
    ship(LATER)
    assert await run(new_database) == [LATER.name]
    assert [name for (name,) in await new_database.rows(LIST_APPLIED)] == [*NAMES, LATER.name]


async def test_two_runs_at_once_apply_each_file_once(
    new_database: Any, ship: Any, until: Any
) -> None:
    ship(LATER)
    count_waiting_runs = """select count(*) from pg_locks
      where locktype = 'advisory' and not granted
        and database = (select oid from pg_database where datname = current_database())"""
    async with new_database.connect() as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(LOCK)
        runs = [asyncio.create_task(run(new_database)) for _ in range(2)]

        async def both_wait() -> bool:
            return bool(await holder.fetchval(count_waiting_runs) == 2)

        await until(both_wait)
        await transaction.rollback()
    first, second = await asyncio.gather(*runs)
    assert sorted(first + second) == [*NAMES, LATER.name]


async def test_a_failed_migration_is_rolled_back(new_database: Any, ship: Any) -> None:
    bad = Migration("20990101000001_post_bad.sql", "create table public.bad ();\n\nselect 1 / 0;\n")
    malformed = Migration(bad.file_name, "create table public.bad ();\n\nselct;\n")
    ship(LATER, bad)
    with pytest.raises(MigrationFailed, match=r"post_bad\.sql cannot be applied: division by zero"):
        await run(new_database)
    ship(LATER, malformed)
    with pytest.raises(MigrationFailed, match="syntax error") as failed:
        await run(new_database)
    assert failed.value.detail == "Line 3 of the file"
    assert await new_database.value("select to_regclass('public.bad')") is None
    assert [name for (name,) in await new_database.rows(LIST_APPLIED)] == [*NAMES, LATER.name]


async def test_a_database_of_another_tool_is_refused(new_database: Any) -> None:
    # The Supabase CLI and the embedded stack write the same table. The embedded stack writes the
    # versions and names of the package into it.
    await apply_migrations(new_database.url)
    for tool, command in (
        (MigrationTool.EMBEDDED, "picture-queue local stop, then picture-queue local start"),
        (MigrationTool.CLI, "picture-queue install && supabase db push"),
    ):
        if tool is MigrationTool.CLI:
            await new_database.run(
                """update supabase_migrations.schema_migrations
                set version = '20300101000000', name = version || '_' || name"""
            )
        refused = await expect_refusal(new_database)
        assert f"applied by `{tool}`" in refused.message
        assert command in (refused.hint or "")
        await asyncio.to_thread(expect_tool, new_database.settings, tool)


async def test_foreign_migrations_of_the_cli_are_ignored(new_database: Any) -> None:
    await new_database.run(
        """create schema supabase_migrations;
        create table supabase_migrations.schema_migrations (
          version text primary key, statements text[], name text);
        insert into supabase_migrations.schema_migrations values ('20250101000000', '{}', 'mine'),
          ('20250101000001', null, null)"""
    )
    assert await run(new_database) == NAMES


async def test_install_refuses_a_database_that_migrate_maintains(new_database: Any) -> None:
    await run(new_database)
    with pytest.raises(InstallationRefused, match="applied by `picture-queue migrate`") as refused:
        await asyncio.to_thread(expect_tool, new_database.settings, MigrationTool.CLI)
    assert refused.value.hint == "Use: picture-queue migrate"


async def test_applying_a_file_by_hand_fails_with_a_hint(new_database: Any) -> None:
    await run(new_database)
    with pytest.raises(asyncpg.RaiseError, match="in this database already") as failed:
        await new_database.run(migrations()[0].sql)
    assert "picture-queue migrate" in failed.value.hint
    await new_database.run("drop schema picture_queue cascade")
    with pytest.raises(asyncpg.RaiseError, match=r"public\.job_queue exists already") as failed:
        await new_database.run(migrations()[0].sql)
    assert "picture-queue adopt" in failed.value.hint


async def test_a_newer_database_is_refused(new_database: Any, ship: Any) -> None:
    ship(LATER)
    await run(new_database)
    ship()
    refused = await expect_refusal(new_database)
    assert LATER.name in refused.message
    assert "pip install --upgrade" in (refused.hint or "")


async def test_an_unreleased_version_is_refused_with_a_hint(new_database: Any) -> None:
    await run(new_database)
    await new_database.run("update picture_queue.migration set digest = 'of yesterday'")
    refused = await expect_refusal(new_database)
    assert "in a pre-release version" in refused.message
    assert "picture-queue adopt --preview" in (refused.hint or "")
    await new_database.run("truncate picture_queue.migration")
    assert "no table lists" in (await expect_refusal(new_database)).message


async def test_another_job_queue_is_refused_with_a_hint(new_database: Any) -> None:
    await new_database.run("create table public.job_queue (id uuid)")
    refused = await expect_refusal(new_database)
    assert "another job queue" in refused.message
    assert "picture-queue adopt --preview" in (refused.hint or "")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://postgres:s3cret@127.0.0.1:1/postgres", ConnectionFailed),
        ("host=127.0.0.1 s3cret", SettingsError),
        ("postgresql://postgres:s3cret@127.0.0.1:port/postgres", SettingsError),
        ("postgresql://postgres:s3cret/1@127.0.0.1/postgres", SettingsError),
        ("postgresql://postgres:s3cret:5432/postgres", SettingsError),
    ],
)
def test_the_error_for_a_bad_address_hides_the_password(
    url: str, kind: type[PictureQueueError]
) -> None:
    with pytest.raises(kind) as refused:
        migrate(DatabaseSettings(url), lambda name: None)
    assert "s3cret" not in str(refused.value)


async def test_a_wrong_password_raises_authentication_failed(stack: Any) -> None:
    password = urlsplit(stack.db_url).password or ""
    settings = DatabaseSettings(stack.db_url.replace(password, "wrong"))
    with pytest.raises(AuthenticationFailed):
        await asyncio.to_thread(migrate, settings, lambda name: None)
