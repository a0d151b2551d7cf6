"""Housekeeping, run once a minute by any worker or pg_cron: aggregate, prune, archive."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

DAY = 86400.0


async def finish_jobs(db, outcome, n=1):
    ids = [await db.enqueue() for _ in range(n)]
    for job in await db.claim(n):
        await db.report(job, outcome, retryable=False)
    return ids


async def maintain(db):
    return await db.value("select picture_queue.maintain()")


async def read_job_ids(db):
    rows = await db.rows("select id from job_queue where queue = $1", db.queue)
    return {row["id"] for row in rows}


async def prune_all(db):
    """Repeat maintenance, whose calls have a time limit, until all old jobs are pruned."""
    for _ in range(100):
        if not (await maintain(db))["more"]:
            return
    raise AssertionError("100 calls did not prune all old jobs")


async def read_archive(db, table="archive"):
    return await db.rows(f"select * from picture_queue.{table} where queue = $1", db.queue)


async def read_partitions(db):
    rows = await db.rows(
        """select c.relname as name, c.relrowsecurity as rls, array(
            select r from unnest(array['anon', 'authenticated', 'service_role']) r
            where has_table_privilege(r, c.oid, 'select, insert, update, delete')) as roles
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'picture_queue.archive'::regclass and c.relkind = 'r' order by 1"""
    )
    return {row["name"]: (row["rls"], row["roles"]) for row in rows}


async def test_jobs_are_kept_as_long_as_the_setting_of_their_state(db):
    (completed,) = await finish_jobs(db, "completed")
    (failed,) = await finish_jobs(db, "failed")
    (cancelled,) = await finish_jobs(db, "cancelled")
    pending = await db.enqueue(max_attempts=9)
    await db.value("select set_setting($1)", {"keep_cancelled_seconds": 20 * DAY})
    await db.pass_time(7 * DAY - 60)
    await prune_all(db)
    assert await read_job_ids(db) == {completed, failed, cancelled, pending}
    await db.pass_time(120)
    await prune_all(db)
    assert await read_job_ids(db) == {failed, cancelled, pending}
    await db.pass_time(13 * DAY)
    await prune_all(db)
    assert await read_job_ids(db) == {failed, pending}
    await db.pass_time(10 * DAY)
    await prune_all(db)
    assert await read_job_ids(db) == {pending}


async def test_pruning_deletes_history_and_log_and_updates_the_counts(db):
    job = await db.enqueue(max_attempts=1)
    (claimed,) = await db.claim()
    lines = [{"level": "info", "message": "hello"}]
    await db.value("select log_job($1, $2, $3)", job, UUID(claimed["lease_id"]), lines)
    await db.report(claimed, "failed")
    await db.pass_time(31 * DAY)
    await maintain(db)
    for table in ("history", "log"):
        n = await db.value(f"select count(*) from picture_queue.{table} where job_id = $1", job)
        assert n == 0, table
    rows = await db.value("select queue_counts()")
    assert next(r["failed"] for r in rows if r["queue"] == db.queue) == 0


async def test_pruning_deletes_a_bounded_number_of_the_oldest_jobs(db):
    await db.run("delete from job_queue")
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        select $1, 'sql-many', 'completed', now() + n * interval '1 second'
        from generate_series(1, 1001) n""",
        db.queue,
    )
    newest = await db.value("select id from job_queue order by finished_at desc limit 1")
    await db.pass_time(8 * DAY)
    for pruned, left in ((1000, {newest}), (1, set()), (0, set())):
        answer = await db.value("select picture_queue.prune(0)")
        assert (answer["pruned"], answer["more"]) == (pruned, pruned > 0)
        assert await read_job_ids(db) == left


async def test_nothing_is_archived_by_default(db):
    await finish_jobs(db, "completed")
    await db.pass_time(8 * DAY)
    await prune_all(db)
    assert await read_job_ids(db) == set()
    assert await read_archive(db) == []


async def test_pruned_jobs_are_archived_in_the_partition_of_their_month(db):
    await db.value("select set_setting($1)", {"archive": True})
    (job,) = await finish_jobs(db, "failed")
    before = await db.job(job)
    await db.pass_time(31 * DAY)
    await prune_all(db)
    assert await read_job_ids(db) == set()
    (row,) = await read_archive(db)
    for column in ("id", "seq", "status", "error", "payload", "attempt", "worker", "finished_at"):
        assert row[column] == before[column], column
    month = before["finished_at"].astimezone(UTC).strftime("archive_%Y_%m")
    assert (await read_partitions(db))[month] == (True, [])


async def test_the_api_roles_cannot_read_the_archive(db):
    await db.value("select picture_queue._archive_partition(now())")
    await db.act_as("service_role")
    error = await db.refusal("select * from picture_queue.archive")
    assert isinstance(error, asyncpg.InsufficientPrivilegeError)


async def test_partitions_have_months_in_utc(db):
    await db.run("set local timezone = 'Pacific/Auckland'")
    at = datetime(2031, 3, 1, 0, 30, tzinfo=UTC)
    await db.value("select picture_queue._archive_partition($1)", at)
    await db.value("select picture_queue._archive_partition($1)", at - timedelta(hours=1))
    assert set(await read_partitions(db)) >= {"archive_2031_03", "archive_2031_02"}
    assert "archive_2031_04" not in await read_partitions(db)
    await db.run(
        """insert into picture_queue.archive (id, seq, queue, job_type, status, priority, payload,
          metadata, attempt, created_at, finished_at)
        select gen_random_uuid(), 1, 'q', 't', 'failed', 0, '{}', '{}', 1, now(), t
        from unnest($1::timestamptz[]) t""",
        [at, at + timedelta(days=30)],
    )
    assert await db.value("select count(*) from picture_queue.archive_2031_03") == 2


async def test_old_months_of_the_archive_are_dropped(db):
    await db.value("select set_setting($1)", {"keep_archive_months": 2})
    now = datetime.now(UTC).replace(day=15)
    months = [now - timedelta(days=31 * i) for i in range(5)]
    for month in months:
        await db.value("select picture_queue._archive_partition($1)", month)
    assert (await maintain(db))["dropped_partitions"] >= 2
    left = set(await read_partitions(db))
    assert {m.strftime("archive_%Y_%m") for m in months[:3]} <= left
    assert not {m.strftime("archive_%Y_%m") for m in months[3:]} & left


@pytest.mark.parametrize(
    # The row exists `kept` seconds after its insert, and is deleted `further` seconds later.
    ("table", "column", "values", "kept", "further"),
    [
        ("worker", "name", "$1, '{q}', '{t}', true, now()", 3000, 900),
        ("external_event", "name", "$1, 'null', now()", 0.9 * DAY, 0.2 * DAY),
        ("answer", "id", "'send_event', $1, '{}', now()", 0.9 * DAY, 0.2 * DAY),
        ("throughput", "queue", "$1, date_trunc('minute', now()), 'failed', 5", 1.9 * DAY, 3 * DAY),
        ("start", "key", "$1, now()", 50, 20),
        ("limit_key", "key", "$1, 0, now() + interval '1 hour', 0", 3000, 900),
    ],
)
async def test_obsolete_rows_are_deleted(db, table, column, values, kept, further):
    name = f"x-{uuid4().hex}"
    await db.run("delete from picture_queue.limit_rule")
    await db.value("select set_limit($1, rate => 1, period_seconds => 60)", name)
    await db.run(f"insert into picture_queue.{table} values ({values})", name)
    count = f"select count(*) from picture_queue.{table} where {column} = $1"
    await db.pass_time(kept)
    delete_old_rows = "select picture_queue._delete_old_rows(array[$1], 1000000)"
    await db.value(delete_old_rows, table)
    assert await db.value(count, name) == 1
    await db.pass_time(further)
    # By now the rows that other tests committed are old too, and are deleted with this row.
    assert await db.value(delete_old_rows, table) >= 1
    assert await db.value(count, name) == 0


async def test_finished_batches_are_deleted_with_their_last_job(db):
    job = {"job_type": "sql-resize", "queue": db.queue}
    done = UUID((await db.value("select enqueue_batch($1)", [job]))["batch_id"])
    (claimed,) = await db.claim()
    await db.report(claimed, "completed")
    unfinished = UUID((await db.value("select enqueue_batch($1)", [job]))["batch_id"])
    await db.pass_time(29 * DAY)
    await maintain(db)
    assert (await db.value("select get_batch($1)", done))["completed"] == 1
    await db.pass_time(2 * DAY)
    await maintain(db)
    assert "PQ_UNKNOWN_BATCH" in (await db.refusal("select get_batch($1)", done)).message
    assert (await db.value("select get_batch($1)", unfinished))["open"] == 1


@pytest.mark.parametrize("limit", ["max_running => 1", "rate => 1, period_seconds => 7200"])
async def test_a_key_with_blocked_jobs_keeps_its_count_or_its_next_check(db, limit):
    key = f"key-{uuid4().hex}"
    await db.value(f"select set_limit($1, {limit})", key)
    for _ in range(2):
        await db.enqueue(options={"limit_keys": [key]})
    (job,) = await db.claim(2, lease=7200.0)
    if "rate" in limit:
        await db.report(job, "completed")
    await db.pass_time(3600)
    await db.value("select picture_queue._delete_old_rows('{limit_key}', 1000)")
    running = "select sum(running) from picture_queue.limit_key where key = $1"
    assert await db.value(running, key) == (1 if "max_running" in limit else None)
    planned_checks = (
        "select count(*) from picture_queue.freed_key where key = $1 and at > picture_queue._now()"
    )
    assert await db.value(planned_checks, key) == (1 if "rate" in limit else 0)
    blocked = "select count(*) from job_queue where blocked_on = $1 and hold = 'blocked'"
    assert await db.value(blocked, key) == 1


async def test_housekeeping_runs_once_a_minute(db):
    await db.run("update picture_queue.maintenance set prune_at = '-infinity'")
    housekeeping_keys = {
        "aggregated",
        "pruned",
        "deleted_rows",
        "dropped_partitions",
        "more",
        "deleted_generations",
        "enqueued_deletions",
        "removed_generations",
    }
    step_keys = {
        "promoted",
        "swept",
        "expired",
        "scheduled",
        "resolved",
        "keys",
        "reordered",
        "counted",
    }
    common_keys = {"leased", "next_in", "failed"}
    first = await db.value("select maintain_jobs()")
    assert first.keys() == housekeeping_keys | common_keys
    assert first["next_in"] == 0, "the next call is due at once"
    assert (await db.value("select maintain_jobs()")).keys() == step_keys | common_keys
    forced = await db.value("select maintain_jobs(force => true)")
    assert forced.keys() == housekeeping_keys | step_keys | common_keys
    await db.pass_time(59)
    # Counts are aggregated every five seconds.
    assert (await db.value("select maintain_jobs()")).keys() == {"aggregated"} | common_keys
    assert (await db.value("select maintain_jobs()")).keys() == step_keys | common_keys
    await db.pass_time(2)
    assert (await db.value("select maintain_jobs()")).keys() == housekeeping_keys | common_keys
    assert (await db.value("select maintain_jobs()")).keys() == step_keys | common_keys
    assert (await db.value("select maintain_jobs()")).keys() == step_keys | common_keys


async def test_the_service_role_may_run_maintenance(db):
    await db.act_as("service_role")
    assert "pruned" in await db.value("select maintain_jobs(true)")


async def test_maintenance_promotes_sweeps_and_runs_schedules(db):
    scheduled = await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(seconds=30))
    await db.value(
        "select set_schedule($1, $2)",
        f"s-{db.queue}",
        {"every_seconds": 60, "job_type": "sql-tick", "queue": db.queue},
    )
    await db.enqueue()
    (job,) = await db.claim(lease=5.0)
    await db.pass_time(61, maintained=False)
    answer = await maintain(db)
    assert answer["promoted"] >= 1
    assert answer["scheduled"] >= 1
    assert answer["swept"] >= 1
    assert (await db.job(scheduled))["hold"] is None
    assert (await db.job(job["id"]))["status"] == "pending"
    ticks = "select count(*) from job_queue where queue = $1 and job_type = 'sql-tick'"
    assert await db.value(ticks, db.queue) == 1


async def test_maintenance_does_not_wait_for_housekeeping_of_another_session(stack):
    blocker = await asyncpg.connect(stack.db_url)
    caller = await asyncpg.connect(stack.db_url)
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.fetchval("select picture_queue.maintain()")
        answer = json.loads(await caller.fetchval("select maintain_jobs()", timeout=5))
        assert "pruned" not in answer
        forced = json.loads(await caller.fetchval("select picture_queue.maintain()", timeout=5))
        assert "swept" in forced
        assert "pruned" not in forced
        await transaction.rollback()
    finally:
        await asyncio.gather(blocker.close(), caller.close())


async def test_pruning_skips_locked_jobs(stack, db):
    queue = f"{db.queue}-held"
    blocker = await asyncpg.connect(stack.db_url)
    pruner = await asyncpg.connect(stack.db_url)
    lock, pruning = blocker.transaction(), pruner.transaction()
    try:
        job = await blocker.fetchval("select enqueue_job('sql-held', queue => $1)", queue)
        await blocker.execute("select cancel_job($1)", job)
        await lock.start()
        await blocker.execute("select from job_queue where id = $1 for update", job)
        await pruning.start()
        await pruner.execute("update picture_queue.setting set keep_cancelled_seconds = 60")
        await pruner.execute(
            """create or replace function picture_queue._now() returns timestamptz
            language sql stable set search_path = pg_catalog, pg_temp
            as $$ select clock_timestamp() + interval '1 hour' $$"""
        )
        await pruner.fetchval("select picture_queue.prune(20)", timeout=30)
        await lock.rollback()
        exists = "select exists (select from job_queue where id = $1)"
        assert await pruner.fetchval(exists, job)
        await pruner.fetchval("select picture_queue.prune()", timeout=5)
        assert not await pruner.fetchval(exists, job)
        await pruning.rollback()
    finally:
        await blocker.execute("select change_jobs('discard', $1)", json.dumps({"queue": queue}))
        await asyncio.gather(blocker.close(), pruner.close())


@pytest.mark.parametrize("extensions", [0, 1000])
async def test_pruning_does_not_scan_all_jobs(db, extensions):
    """With many lease extensions, for example of other tests, a hash join read all jobs."""
    await db.run(
        """insert into picture_queue.lease_extension (job_id, lease_id, lease_expires_at)
        select gen_random_uuid(), gen_random_uuid(), now() - interval '1 hour'
        from generate_series(1, $1)""",
        extensions,
    )
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        select $1, 'sql-many', 'completed', now() from generate_series(1, 20000)""",
        db.queue,
    )
    await db.run("analyze job_queue")
    read = (
        "select pg_stat_get_xact_tuples_returned('public.job_queue'::regclass)"
        " + pg_stat_get_xact_tuples_fetched('public.job_queue'::regclass)"
    )
    before = await db.value(read)
    await db.value("select picture_queue.prune(0)")
    # A scan of the table would read 20,000 rows.
    assert await db.value(read) - before < 5000


@pytest.fixture
async def cron(db):
    """Create a table and a function in place of the objects of pg_cron that the queue uses."""
    await db.run(
        """create schema cron;
        create table cron.job (jobname text primary key, schedule text, command text,
          active boolean default true);
        create function cron.schedule(text, text, text) returns bigint language sql as $$
          insert into cron.job values ($1, $2, $3) on conflict (jobname)
          do update set schedule = $2, command = $3;
          select 1::bigint $$"""
    )


async def test_scheduling_twice_creates_the_jobs_of_pg_cron_once(db, cron):
    for _ in range(2):
        assert await db.value("select picture_queue.schedule_maintenance()") == "scheduled"
    rows = await db.rows("select jobname, schedule, command from cron.job order by 1")
    assert [(row["jobname"], row["schedule"]) for row in rows] == [
        ("process-job-queue", "* * * * *"),
        ("prune-job-queue", "* * * * *"),
    ]
    for row in rows:
        await db.run(row["command"])


async def test_the_doctor_checks_the_jobs_of_pg_cron(db, cron):
    async def found():
        findings = await db.value("select queue_doctor()")
        return next(f for f in findings if f["check"] == "pg_cron")

    finding = await found()
    assert finding["verdict"] == "warn"
    await db.run(finding["remedy"])
    assert (await found())["verdict"] == "ok"
    await db.run("update cron.job set active = false where jobname = 'prune-job-queue'")
    assert (await found())["verdict"] == "warn"


async def test_a_detached_partition_of_the_archive_does_not_stop_pruning(db):
    await db.value("select set_setting($1)", {"archive": True})
    first = await finish_jobs(db, "completed")
    month = (await db.job(first[0]))["finished_at"].astimezone(UTC)
    await db.value("select picture_queue._archive_partition($1)", month)
    name = month.strftime("archive_%Y_%m")
    await db.run(f"alter table picture_queue.archive detach partition picture_queue.{name}")
    await db.pass_time(8 * DAY)
    assert (await maintain(db))["pruned"] >= 1
    assert [row["id"] for row in await read_archive(db)] == first
    assert f"{name}_2" in await read_partitions(db)
    await finish_jobs(db, "completed")
    await db.pass_time(8 * DAY)
    await maintain(db)
    assert len(await read_archive(db)) == 2
    findings = await db.findings("pruning")
    assert f"picture_queue.{name} is not a partition of the archive" in {
        f["detail"] for f in findings
    }


@pytest.mark.parametrize(
    "bounds", ["default", "for values from ('2020-01-01 00:00+00') to ('2100-01-01 00:00+00')"]
)
async def test_partitions_created_by_the_project_are_used_and_kept(db, bounds):
    for name in await read_partitions(db):
        await db.run(f"alter table picture_queue.archive detach partition picture_queue.{name}")
    await db.run(
        f"create table picture_queue.archive_2019 partition of picture_queue.archive {bounds}"
    )
    await db.value("select set_setting($1)", {"archive": True})
    ids = await finish_jobs(db, "completed")
    await db.pass_time(8 * DAY)
    await prune_all(db)
    assert [row["id"] for row in await read_archive(db, "archive_2019")] == ids
    await db.pass_time(800 * DAY)
    await prune_all(db)
    assert set(await read_partitions(db)) == {"archive_2019"}, (
        "only partitions with names of the queue are dropped"
    )


async def test_a_job_that_cannot_be_pruned_does_not_stop_the_pruning_of_other_jobs(db):
    _, referenced, _ = await finish_jobs(db, "completed", 3)
    await db.run("create table public.orders (job uuid references job_queue (id))")
    await db.run("insert into public.orders values ($1)", referenced)
    await db.pass_time(7.5 * DAY)
    await prune_all(db)
    assert await read_job_ids(db) == {referenced}
    assert (await db.findings("pruning"))[0]["verdict"] == "ok"
    await db.pass_time(DAY)
    (finding,) = await db.findings("pruning")
    assert finding["verdict"] == "warn"
    assert "orders" in finding["detail"]
    assert str(referenced) in finding["remedy"]
    await db.run("delete from public.orders")
    await db.run(finding["remedy"])
    assert await read_job_ids(db) == set()


async def test_a_partition_used_by_a_view_is_kept_and_reported(db):
    await db.value("select set_setting($1)", {"keep_archive_months": 2})
    old = [datetime(2020, 1, 15, tzinfo=UTC), datetime(2020, 2, 15, tzinfo=UTC)]
    for month in old:
        await db.value("select picture_queue._archive_partition($1)", month)
    await db.run("create view public.january as select * from picture_queue.archive_2020_01")
    assert (await maintain(db))["dropped_partitions"] == 1
    assert {"archive_2020_01"} <= set(await read_partitions(db))
    findings = await db.findings("pruning")
    assert "drop table picture_queue.archive_2020_01;" in {f["remedy"] for f in findings}
    (failed,) = await db.findings("failed steps")
    assert "dropping partition archive_2020_01 failed 1 times" in failed["detail"]
    assert "january depends on table" in failed["detail"]


@pytest.mark.parametrize("call", ["picture_queue.maintain()", "picture_queue.prune()"])
async def test_accounts_are_locked_after_all_other_steps(db, call):
    """A start waits for the lock of its account, so the lock must be held only shortly."""
    user = f"user:{uuid4()}"
    old = await insert_old_generation(db)
    await db.run("insert into picture_queue.account (key, day) values ($1, current_date)", user)
    await db.run(
        "insert into picture_queue.account_change values ($1, 0, 0, 0, current_date, '2026-01-01')",
        user,
    )
    await db.run("create temp table step (name text, added boolean)")
    await db.run(
        f"""create function public.note_step() returns trigger language plpgsql
        set search_path = public, pg_temp as $$
        begin
          insert into step select tg_table_name, not exists (
            select from picture_queue.account_change c where c.key = '{user}');
          return new;
        end $$"""
    )
    for table in ("job_queue", "generations"):
        await db.run(
            f"create trigger note_step before update on {table} "
            "for each row execute function note_step()"
        )
    due = await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(seconds=1))
    await db.pass_time(2, maintained=False)
    await db.value(f"select {call}")
    steps = {(row["name"], row["added"]) for row in await db.rows("select * from step")}
    promoted = {("job_queue", False)} if "maintain" in call else set()
    assert steps == {("generations", False)} | promoted
    assert ((await db.job(due))["hold"] is None) == bool(promoted)
    assert await db.value("select deleted from generations where id = $1", old)
    changes = "select count(*) from picture_queue.account_change where key = $1"
    assert await db.value(changes, user) == 0


async def insert_old_generation(db):
    """Insert a generation whose retention has passed, and set the retention."""
    await db.value("select set_setting($1)", {"keep_generations_days": 10})
    return await db.value(
        "insert into generations (job_id, model_id, prompt, status, created_at) "
        "values (gen_random_uuid(), 'a/b', '', 'completed', now() - interval '20 days') "
        "returning id"
    )
