"""`picture-queue adopt` replaces another job queue in a project, and copies its jobs."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from picture_queue._resources import migrations
from picture_queue.errors import InstallationRefused, MigrationFailed
from picture_queue.installation.adopt import Adoption, adopt
from picture_queue.installation.checkup import examine_database
from picture_queue.installation.database import migrate

OLD_QUEUE = (Path(__file__).parent / "fixtures" / "old_system.sql").read_text("utf-8")
CAT, RESIZE, LATER, RUNNING, DONE, FAILED = (
    UUID(f"00000000-0000-4000-8000-{n:012}") for n in range(1, 7)
)
LIST_OBJECTS = """
select n.nspname, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1, 2
"""


@pytest.fixture
async def old(new_database: Any) -> AsyncIterator[Any]:
    """A database with another job queue, with jobs in each state."""
    await new_database.run(OLD_QUEUE)
    yield new_database


async def run_adopt(database: Any, *, preview: bool = False) -> Adoption:
    return await asyncio.to_thread(adopt, database.settings, preview=preview)


async def test_the_doctor_recognises_the_old_queue_and_names_the_command(old: Any) -> None:
    (finding,) = await asyncio.to_thread(examine_database, old.settings)
    assert finding.verdict == "bad"
    assert "another job queue" in finding.detail
    assert "picture-queue adopt --preview" in (finding.remedy or "")


async def test_a_preview_returns_the_same_plan_and_changes_nothing(old: Any) -> None:
    before = await old.rows(LIST_OBJECTS), await old.rows("select * from job_queue order by id")
    planned = await run_adopt(old, preview=True)
    after = await old.rows(LIST_OBJECTS), await old.rows("select * from job_queue order by id")
    assert after == before
    assert await run_adopt(old) == planned


async def test_policies_of_an_earlier_version_are_replaced(old: Any) -> None:
    await old.run(
        """create policy "picture_queue: upload to own folder" on storage.objects
        for insert to authenticated with check (false)"""
    )
    await run_adopt(old)
    checks = await old.rows(
        """select pg_get_expr(p.polwithcheck, p.polrelid) from pg_policy p
        where p.polname = 'picture_queue: upload to own folder' """
    )
    assert len(checks) == 1 and checks != [("false",)]


async def test_every_job_is_copied_unchanged(old: Any) -> None:
    done = await run_adopt(old)
    assert done.jobs == {"completed": 1, "failed": 1, "pending": 3, "processing": 1}
    rows = await old.rows(
        """select id, status, hold, priority, rank, attempt, max_attempts, payload, result, error,
          user_id, finished_at is not null from job_queue order by id"""
    )
    user = UUID("00000000-0000-4000-8000-0000000000aa")
    assert rows == [
        (CAT, "pending", None, 0, 0, 0, 3, '{"prompt": "a cat"}', None, None, user, False),
        (RESIZE, "pending", None, 7, -7, 1, 3, '{"path": "a.png"}', None, "timed out", None, False),
        (LATER, "pending", "scheduled", 0, 0, 0, 3, '{"value": [1, 2]}', None, None, None, False),
        (RUNNING, "processing", None, 0, 0, 1, 3, "{}", None, None, None, False),
        (DONE, "completed", None, 0, 0, 1, 3, "{}", '{"ok": true}', None, None, True),
        (FAILED, "failed", None, 0, 0, 3, 3, "{}", None, "no such file", None, True),
    ]
    query = "select count(*) from job_queue join {} as old_queue using (id, created_at)"
    assert await old.value(query.format(f"{done.schema}.job_queue")) == 6


async def test_the_old_worker_can_complete_its_job(old: Any) -> None:
    await run_adopt(old)
    # These are the calls of the old worker. It reports without a lease id, and claims by priority.
    assert await old.value("select complete_job($1, null, null)", RUNNING) == "completed"
    assert await old.value("select id from claim_next_job()") == RESIZE
    assert await old.value("select complete_job($1, null, null)", RESIZE) == "completed"
    assert await old.value("select id from claim_next_job()") == CAT
    assert await old.value("select count(*) from claim_next_job()") == 0
    health = await old.value("select queue_doctor()")
    assert not [finding for finding in json.loads(health) if finding["verdict"] == "bad"]


async def test_old_objects_are_moved_and_not_dropped(old: Any) -> None:
    before = await old.rows(
        "select relname::text, true from pg_class where relkind in ('r', 'v')"
        " and relnamespace = 'public'::regnamespace order by 1"
    )
    done = await run_adopt(old)
    after = await old.rows(
        "select relname::text, true from pg_class where relkind in ('r', 'v') and relnamespace in "
        "('picture_queue_before'::regnamespace, 'public'::regnamespace) order by 1"
    )
    assert {name for name, _ in before} <= {name for name, _ in after}
    assert done.schema == "picture_queue_before"
    assert "table public.job_queue" in done.moved
    assert "function public.enqueue_job(text,jsonb,integer)" in done.moved
    # The moved objects work, but only their owner can use them.
    assert await old.value("select count(*) from picture_queue_before.queue_health") == 4
    assert await old.value("select prompt from picture_queue_before.generations") == "a cat"
    for role in ("anon", "authenticated", "service_role"):
        access_query = "select has_schema_privilege($1, 'picture_queue_before', 'usage')"
        assert not await old.value(access_query, role)
    command = "select command from {}.{} where jobname = 'process-job-queue'"
    query = await old.value(command.format("picture_queue_before", "cron_job"))
    assert "net.http_post" in query
    assert "picture_queue.maintain()" in await old.value(command.format("cron", "job"))


async def test_the_notes_name_objects_that_need_attention(old: Any) -> None:
    notes = "\n".join((await run_adopt(old, preview=True)).notes)
    for text in (
        "trigger job_queue_updated moves with public.job_queue",
        "public.generation_costs has a foreign key to public.job_queue",
        "view public.my_dashboard still shows the old rows",
        "publication supabase_realtime",
        "function public.count_my_jobs() names job_queue",
    ):
        assert text in notes
    assert "enqueue_job" not in notes


async def test_a_second_run_changes_nothing(old: Any) -> None:
    await run_adopt(old)
    before = await old.rows(LIST_OBJECTS), await old.rows("select * from job_queue order by id")
    assert await run_adopt(old) == Adoption()
    assert (
        await old.rows(LIST_OBJECTS),
        await old.rows("select * from job_queue order by id"),
    ) == before
    assert await asyncio.to_thread(migrate, old.settings, lambda name: None) == []


async def test_an_unknown_state_is_refused_without_changes(old: Any) -> None:
    await old.run("alter type public.job_status add value 'on_fire'")
    await old.run("update job_queue set status = 'on_fire' where id = $1", FAILED)
    before = await old.rows(LIST_OBJECTS)
    with pytest.raises(InstallationRefused, match="unknown states: on_fire"):
        await run_adopt(old)
    assert await old.rows(LIST_OBJECTS) == before


async def test_a_job_without_a_state_is_refused(new_database: Any) -> None:
    await new_database.run("create table job_queue (id uuid, type text, status text)")
    await new_database.run("insert into job_queue (type) values ('resize')")
    with pytest.raises(InstallationRefused, match="unknown states: None"):
        await run_adopt(new_database)


async def test_a_result_that_is_not_json_becomes_a_json_string(new_database: Any) -> None:
    await new_database.run(
        """create table job_queue (id uuid default gen_random_uuid(), type text, status text,
          result text, completed_at timestamptz default now());
        insert into job_queue (type, status, result) values ('resize', 'completed', 'all well')"""
    )
    await run_adopt(new_database)
    assert await new_database.value("select result from job_queue") == '"all well"'


async def test_the_error_names_a_value_out_of_range_and_nothing_changes(new_database: Any) -> None:
    await new_database.run(
        """create table job_queue (id uuid default gen_random_uuid(), type text, status text,
          priority bigint);
        insert into job_queue (type, status, priority) values ('resize', 'pending', 9e9)"""
    )
    before = await new_database.rows(LIST_OBJECTS)
    with pytest.raises(MigrationFailed, match=r"cannot be adopted: .*out of range"):
        await run_adopt(new_database)
    assert await new_database.rows(LIST_OBJECTS) == before


async def test_jobs_with_numeric_ids_get_uuids_and_keep_the_old_ids(new_database: Any) -> None:
    await new_database.run(
        """create table job_queue (id bigserial primary key, type text, status text,
          user_id text);
        insert into job_queue (type, status)
        select 'resize', 'pending' from generate_series(1, 3)"""
    )
    assert (await run_adopt(new_database)).jobs == {"pending": 3}
    rows = await new_database.rows("select metadata ->> 'adopted_id' from job_queue order by seq")
    assert sorted(rows) == [("1",), ("2",), ("3",)]


async def test_a_table_that_is_not_a_queue_is_refused(new_database: Any) -> None:
    await new_database.run("create table job_queue (id uuid)")
    with pytest.raises(InstallationRefused, match="it is not a job queue"):
        await run_adopt(new_database)


async def test_a_database_without_a_queue_is_refused(new_database: Any) -> None:
    with pytest.raises(InstallationRefused, match="no job queue to adopt"):
        await run_adopt(new_database)


def test_the_command_previews_requires_a_confirmation_and_adopts(
    cli: Any, new_database: Any
) -> None:
    asyncio.run(new_database.run(OLD_QUEUE))
    preview = cli("adopt", "--db-url", new_database.url, "--preview")
    assert preview.exit_code == 0, preview.stderr
    assert "picture_queue_before" in preview.stdout and "3 pending" in preview.stdout
    assert "Nothing was changed." in preview.stderr
    unconfirmed = cli("adopt", "--db-url", new_database.url)
    assert unconfirmed.exit_code == 2 and "--yes" in unconfirmed.stderr
    done = cli("adopt", "--db-url", new_database.url, "--yes", "--json")
    assert json.loads(done.stdout)["applied"] == [file.name for file in migrations()]
    again = cli("adopt", "--db-url", new_database.url)
    assert (again.exit_code, "Nothing to do" in again.stderr) == (0, True)
