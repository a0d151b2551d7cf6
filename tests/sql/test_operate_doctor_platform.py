"""The doctor's checks of Supabase: Realtime, Storage and the runs of pg_cron."""

import pytest

from .conftest import transaction


async def finding(db, check):
    """Return the only finding of a check."""
    (found,) = await db.findings(check)
    return found


@pytest.mark.parametrize(
    ("check", "broken", "text"),
    [
        (
            "realtime in SQL",
            "alter table realtime.messages disable row level security",
            "every user can read",
        ),
        (
            "realtime in SQL",
            'drop policy "picture_queue: read own topics" on realtime.messages',
            "its policy is missing",
        ),
        (
            "storage",
            "update storage.buckets set public = true where id = 'pictures'",
            "publ",
        ),
        (
            "storage",
            'drop policy "picture_queue: read own pictures" on storage.objects',
            "the policy is missing",
        ),
        (
            "storage",
            "drop trigger picture_queue_limit_uploads on storage.objects",
            "can exceed max_user_uploads",
        ),
        (
            "realtime in SQL",
            "alter publication supabase_realtime add table public.job_queue, public.images",
            "also sends every change of images, job_queue",
        ),
    ],
)
async def test_each_problem_is_found_and_its_remedy_solves_it(db, check, broken, text):
    assert (await finding(db, check))["verdict"] == "ok"
    await db.run(broken)
    found = await finding(db, check)
    assert found["verdict"] != "ok"
    assert text in found["detail"]
    await db.run(found["remedy"])
    assert (await finding(db, check))["verdict"] == "ok"


async def test_a_missing_bucket_is_found(db):
    await db.run("set local storage.allow_delete_query = 'true'")
    await db.run("delete from storage.objects where bucket_id = 'pictures'")
    await db.run("delete from storage.buckets where id = 'pictures'")
    found = await finding(db, "storage")
    assert found["verdict"] == "bad"
    await db.run(found["remedy"])
    assert (await finding(db, "storage"))["verdict"] == "ok"


async def test_events_that_are_not_sent_are_found(db):
    await db.run(
        """create or replace function picture_queue._broadcast(p_events picture_queue.event[])
        returns void language sql set search_path = pg_catalog, pg_temp as $$ select $$"""
    )
    found = await finding(db, "realtime in SQL")
    assert (found["verdict"], "events are not sent" in found["detail"]) == ("bad", True)


@pytest.fixture
async def cron(db):
    """The tables of pg_cron, with the columns that the doctor reads."""
    await db.run(
        """create schema cron;
        create table cron.job (jobid bigint, jobname text, schedule text, command text,
          active boolean default true);
        create table cron.job_run_details (jobid bigint, runid bigint primary key, status text,
          return_message text, start_time timestamptz, end_time timestamptz);
        insert into cron.job values (1, 'process-job-queue', '* * * * *', 'select 1/0'),
          (2, 'prune-job-queue', '* * * * *', 'select 2'), (3, 'mine', '* * * * *', 'select 3')"""
    )


async def test_failed_runs_of_pg_cron_are_found(db, cron):
    assert [f["verdict"] for f in await db.findings("pg_cron runs")] == ["warn", "warn"]
    await db.run(
        """insert into cron.job_run_details values
        (1, 1, 'succeeded', '1 row', now(), now()),
        (1, 2, 'failed', 'division by zero', now(), now()),
        (2, 3, 'failed', 'gone', now(), now()), (2, 4, 'succeeded', '1 row', now(), now()),
        (2, 5, 'running', null, now(), null), (3, 6, 'failed', 'not ours', now(), now())"""
    )
    first, second = await db.findings("pg_cron runs")
    assert first["verdict"] == "bad"
    assert "division by zero" in first["detail"]
    assert first["remedy"].endswith("select 1/0")
    assert second["verdict"] == "ok"


async def test_a_large_table_of_pg_cron_runs_is_found(db, cron):
    await db.run(
        """insert into cron.job_run_details
        select 3, n, 'succeeded', '', now() - interval '8 days', now() - interval '8 days'
        from generate_series(1, 100001) n"""
    )
    await db.run("analyze cron.job_run_details")
    found = (await db.findings("pg_cron runs"))[-1]
    assert "100001 rows" in found["detail"]
    await db.run(found["remedy"])
    await db.run("analyze cron.job_run_details")
    assert "rows" not in (await db.findings("pg_cron runs"))[-1]["detail"]


async def test_pg_cron_runs_are_not_checked_without_pg_cron(db):
    assert await db.findings("pg_cron runs") == []


OPEN_POLICY = "create policy open on public.{} for {} to {} using (true)"
OPEN_TOPICS = "create policy open on realtime.messages for {} to authenticated {} (true)"
OPEN_BUCKETS = (
    "create policy open on storage.objects for select to {} using (auth.uid() is not null)"
)


@pytest.mark.parametrize(
    ("broken", "verdict", "text"),
    [
        (
            "grant execute on function public.enqueue_job to authenticated",
            "bad",
            "authenticated may execute public.enqueue_job(",
        ),
        (
            "grant execute on function picture_queue._transition to public",
            "bad",
            "authenticated may execute picture_queue._transition(",
        ),
        (
            "alter function public.list_models(jsonb) set search_path = ''",
            "bad",
            'list_models(jsonb) can use types and tables of its caller: its search_path is ""',
        ),
        (
            "alter function picture_queue._caller_id() reset search_path",
            "bad",
            "_caller_id() can use types and tables of its caller: its search_path is not set",
        ),
        (
            """create function public.note() returns trigger language plpgsql
            as $$ begin return new; end $$;
            create trigger note before update on public.generations
            for each row execute function public.note()""",
            "warn",
            "trigger note on public.generations may use temporary objects",
        ),
        ("grant service_role to authenticated", "bad", "authenticated has the privileges of serv"),
        ("alter role authenticated bypassrls", "bad", "authenticated bypasses row level security"),
        (OPEN_POLICY.format("job_queue", "select", "authenticated"), "warn", "policy open on"),
        (OPEN_POLICY.format("images", "all", "public"), "warn", "policy open on public.images"),
        (OPEN_TOPICS.format("select", "using"), "warn", "policy open on realtime.messages is for"),
        (OPEN_TOPICS.format("insert", "with check"), "warn", "policy open on realtime.messages"),
        (OPEN_BUCKETS.format("public"), "warn", "policy open on storage.objects is for every"),
        (
            "alter role authenticator reset statement_timeout; "
            "alter role authenticated set statement_timeout = 0",
            "warn",
            "no statement_timeout for the role authenticated",
        ),
    ],
)
async def test_excess_privileges_of_users_are_found(admin_db, broken, verdict, text):
    """Find the privilege, and check that the remedy of the finding removes it."""
    before = await admin_db.findings("exposure")
    assert all("a user can have any" in found["detail"] for found in before if found["remedy"])
    await admin_db.run(broken)
    (found,) = (f for f in await admin_db.findings("exposure") if text in f["detail"])
    assert found["verdict"] == verdict
    await admin_db.run(found["remedy"])
    assert not any(text in f["detail"] for f in await admin_db.findings("exposure"))


async def test_policies_of_other_topics_buckets_and_roles_are_accepted(admin_db):
    before = await admin_db.findings("exposure")
    await admin_db.run(
        """create policy rooms on realtime.messages for select to authenticated
        using ((select realtime.topic()) like 'room:%');
        create policy avatars on storage.objects for select using (bucket_id = 'avatars');
        create policy owned on storage.objects for all using (owner_id = auth.uid()::text);
        create policy services on storage.objects for all to service_role using (true)"""
    )
    assert await admin_db.findings("exposure") == before


async def test_a_missing_limit_of_jobs_per_user_is_found(db):
    await db.run("delete from public.generations where user_id is not null")
    text = "a user can have any number of running jobs"
    assert not any(text == f["detail"] for f in await db.findings("exposure"))
    await db.run(
        """insert into public.generations (user_id, job_id, model_id, prompt)
        values (gen_random_uuid(), gen_random_uuid(), 'm', 'x')"""
    )
    (found,) = (f for f in await db.findings("exposure") if text == f["detail"])
    assert found["verdict"] == "warn"
    await db.run(found["remedy"])
    assert not any(text == f["detail"] for f in await db.findings("exposure"))


@pytest.fixture
async def admin_db(stack):
    """A transaction of a superuser, who may change roles."""
    async with transaction(stack.superuser_url) as database:
        yield database
