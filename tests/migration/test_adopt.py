"""`picture-queue adopt`: a project that runs a job queue already keeps its jobs."""

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

OLD = (Path(__file__).parent / "fixtures" / "old_system.sql").read_text("utf-8")
CAT, RESIZE, LATER, RUNNING, DONE, FAILED = (
    UUID(f"00000000-0000-4000-8000-{n:012}") for n in range(1, 7)
)
OBJECTS = """
select n.nspname, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1, 2
"""


@pytest.fixture
async def old(bare: Any) -> AsyncIterator[Any]:
    """A database that runs the old system."""
    await bare.run(OLD)
    yield bare


async def take_over(database: Any, *, preview: bool = False) -> Adoption:
    return await asyncio.to_thread(adopt, database.settings, preview=preview)


async def test_it_is_recognised_and_the_doctor_names_the_command(old: Any) -> None:
    (finding,) = await asyncio.to_thread(examine_database, old.settings)
    assert finding.verdict == "bad"
    assert "another job queue" in finding.detail
    assert "picture-queue adopt --preview" in (finding.remedy or "")


async def test_a_preview_tells_the_same_and_changes_nothing(old: Any) -> None:
    before = await old.rows(OBJECTS), await old.rows("select * from job_queue order by id")
    told = await take_over(old, preview=True)
    after = await old.rows(OBJECTS), await old.rows("select * from job_queue order by id")
    assert after == before
    assert await take_over(old) == told


async def test_every_job_comes_along_as_it_was(old: Any) -> None:
    done = await take_over(old)
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
    kept = "select count(*) from job_queue n join {} o using (id, created_at)"
    assert await old.value(kept.format(f"{done.schema}.job_queue")) == 6


async def test_the_queue_works_and_the_old_worker_ends_what_it_had(old: Any) -> None:
    await take_over(old)
    # Its calls are the same: what it ran is reported without a lease, then the best job is next.
    assert await old.value("select complete_job($1, null, null)", RUNNING) == "completed"
    assert await old.value("select id from claim_next_job()") == RESIZE
    assert await old.value("select complete_job($1, null, null)", RESIZE) == "completed"
    assert await old.value("select id from claim_next_job()") == CAT
    assert await old.value("select count(*) from claim_next_job()") == 0
    health = await old.value("select queue_doctor()")
    assert not [f for f in json.loads(health) if f["verdict"] == "bad"]


async def test_nothing_is_dropped(old: Any) -> None:
    before = await old.rows(
        "select c.relname::text, c.reltuples is not null from pg_class c where c.relkind in "
        "('r', 'v') and relnamespace = 'public'::regnamespace order by 1"
    )
    done = await take_over(old)
    there = await old.rows(
        "select relname::text, true from pg_class where relkind in ('r', 'v') and relnamespace in "
        "('picture_queue_before'::regnamespace, 'public'::regnamespace) order by 1"
    )
    assert {name for name, _ in before} <= {name for name, _ in there}
    assert done.schema == "picture_queue_before"
    assert "table public.job_queue" in done.moved
    assert "function public.enqueue_job(text,jsonb,integer)" in done.moved
    # The copies work, for whoever owns them and for nobody else.
    assert await old.value("select count(*) from picture_queue_before.queue_health") == 4
    assert await old.value("select prompt from picture_queue_before.generations") == "a cat"
    for role in ("anon", "authenticated", "service_role"):
        may = "select has_schema_privilege($1, 'picture_queue_before', 'usage')"
        assert not await old.value(may, role)
    command = "select command from {}.{} where jobname = 'process-job-queue'"
    kept = await old.value(command.format("picture_queue_before", "cron_job"))
    assert "net.http_post" in kept
    assert "picture_queue.maintain()" in await old.value(command.format("cron", "job"))


async def test_what_a_person_should_look_at_is_told(old: Any) -> None:
    notes = "\n".join((await take_over(old, preview=True)).notes)
    for text in (
        "trigger job_queue_updated moves with public.job_queue",
        "public.generation_costs references public.job_queue",
        "view public.my_dashboard still shows the old rows",
        "publication supabase_realtime",
        "function public.count_my_jobs() names job_queue",
    ):
        assert text in notes
    assert "enqueue_job" not in notes


async def test_a_second_time_changes_nothing(old: Any) -> None:
    await take_over(old)
    before = await old.rows(OBJECTS), await old.rows("select * from job_queue order by id")
    assert await take_over(old) == Adoption()
    assert (
        await old.rows(OBJECTS),
        await old.rows("select * from job_queue order by id"),
    ) == before
    assert await asyncio.to_thread(migrate, old.settings, lambda name: None) == []


async def test_a_state_nobody_knows_is_refused_and_nothing_changes(old: Any) -> None:
    await old.run("alter type public.job_status add value 'on_fire'")
    await old.run("update job_queue set status = 'on_fire' where id = $1", FAILED)
    before = await old.rows(OBJECTS)
    with pytest.raises(InstallationRefused, match="unknown states: on_fire"):
        await take_over(old)
    assert await old.rows(OBJECTS) == before


async def test_a_job_without_a_state_is_refused(bare: Any) -> None:
    await bare.run("create table job_queue (id uuid, type text, status text)")
    await bare.run("insert into job_queue (type) values ('resize')")
    with pytest.raises(InstallationRefused, match="unknown states: None"):
        await take_over(bare)


async def test_a_result_that_is_no_json_becomes_a_json_text(bare: Any) -> None:
    await bare.run(
        """create table job_queue (id uuid default gen_random_uuid(), type text, status text,
          result text, completed_at timestamptz default now());
        insert into job_queue (type, status, result) values ('resize', 'completed', 'all well')"""
    )
    await take_over(bare)
    assert await bare.value("select result from job_queue") == '"all well"'


async def test_what_does_not_fit_is_named_and_nothing_changes(bare: Any) -> None:
    await bare.run(
        """create table job_queue (id uuid default gen_random_uuid(), type text, status text,
          priority bigint);
        insert into job_queue (type, status, priority) values ('resize', 'pending', 9e9)"""
    )
    before = await bare.rows(OBJECTS)
    with pytest.raises(MigrationFailed, match=r"cannot be adopted: .*out of range"):
        await take_over(bare)
    assert await bare.rows(OBJECTS) == before


async def test_jobs_with_numbers_for_ids_get_new_ones_and_keep_the_old(bare: Any) -> None:
    await bare.run(
        """create table job_queue (id bigserial primary key, type text, status text,
          user_id text);
        insert into job_queue (type, status)
        select 'resize', 'pending' from generate_series(1, 3)"""
    )
    assert (await take_over(bare)).jobs == {"pending": 3}
    rows = await bare.rows("select metadata ->> 'adopted_id' from job_queue order by seq")
    assert sorted(rows) == [("1",), ("2",), ("3",)]


async def test_a_table_that_is_no_queue_is_refused(bare: Any) -> None:
    await bare.run("create table job_queue (id uuid)")
    with pytest.raises(InstallationRefused, match="it is not a job queue"):
        await take_over(bare)


async def test_without_a_queue_there_is_nothing_to_take_over(bare: Any) -> None:
    with pytest.raises(InstallationRefused, match="no job queue to adopt"):
        await take_over(bare)


def test_the_command_previews_asks_and_takes_over(cli: Any, bare: Any) -> None:
    asyncio.run(bare.run(OLD))
    preview = cli("adopt", "--db-url", bare.url, "--preview")
    assert preview.exit_code == 0, preview.stderr
    assert "picture_queue_before" in preview.stdout and "3 pending" in preview.stdout
    assert "Nothing was changed." in preview.stderr
    unasked = cli("adopt", "--db-url", bare.url)
    assert unasked.exit_code == 2 and "--yes" in unasked.stderr
    done = cli("adopt", "--db-url", bare.url, "--yes", "--json")
    assert json.loads(done.stdout)["applied"] == [file.name for file in migrations()]
    again = cli("adopt", "--db-url", bare.url)
    assert (again.exit_code, "Nothing to do" in again.stderr) == (0, True)
