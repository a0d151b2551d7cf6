"""The doctor finds each problem, and the remedy in its finding solves the problem."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

CHECKS = {
    "realtime in SQL",
    "storage",
    "held snapshots", "locks", "dead rows", "indexes", "orphans", "counts", "overdue jobs",
    "pruning", "privileges", "exposure",
    "failed steps", "maintenance", "pg_cron", "worker calls", "settings", "postgres", "clock",
}  # fmt: skip


async def problems(db, check, text="", *, client_time=None):
    """Return the findings of a check that are not ok and whose detail contains a text."""
    findings = await db.value("select queue_doctor($1)", client_time)
    return [
        f for f in findings
        if f["check"] == check and f["verdict"] != "ok" and text in f["detail"]
    ]  # fmt: skip


async def check_remedy(db, check, text, verdict="bad"):
    """Expect one finding, run its remedy, and check that the finding is gone."""
    (finding,) = await problems(db, check, text)
    assert finding["verdict"] == verdict, finding
    await db.run(finding["remedy"])
    assert await problems(db, check, text) == []
    return finding


async def test_a_healthy_queue_has_a_finding_for_each_check(db):
    await db.value("select maintain_jobs(true)")
    findings = await db.value("select queue_doctor(clock_timestamp())")
    assert {finding["check"] for finding in findings} == CHECKS
    for finding in findings:
        assert finding.keys() == {"check", "verdict", "detail", "remedy"}
        assert finding["verdict"] in ("ok", "warn", "bad")
        assert (finding["remedy"] is None) == (finding["verdict"] == "ok"), finding
    for check in ("indexes", "orphans", "counts", "privileges", "settings", "postgres", "clock"):
        assert await problems(db, check, client_time=datetime.now(UTC)) == []
    assert await problems(db, "maintenance") == []


async def test_only_service_keys_may_call_the_doctor_through_the_api(stack):
    async with httpx.AsyncClient(base_url=f"{stack.api_url}/rest/v1", timeout=10) as http:

        async def call_doctor(key):
            headers = {"apikey": key, "Authorization": f"Bearer {key}"}
            body = {"client_time": datetime.now(UTC).isoformat()}
            return await http.post("/rpc/queue_doctor", json=body, headers=headers)

        answer = await call_doctor(stack.service_role_key)
        assert answer.status_code == 200, answer.text
        assert {finding["check"] for finding in answer.json()} == CHECKS
        assert (await call_doctor(stack.anon_key)).status_code in (401, 403)


async def test_a_session_that_keeps_a_lock_of_the_queue_is_found(db, stack):
    holder = await asyncpg.connect(stack.db_url)
    try:
        pid = await holder.fetchval("select pg_backend_pid()")
        # 1903326068 marks the advisory locks of the queue.
        await holder.fetchval("select pg_advisory_lock(1903326068, 5)")
        assert await problems(db, "locks", f"session {pid} ") == []
        await db.pass_time(11)
        (finding,) = await problems(db, "locks", f"session {pid} ")
        assert finding["verdict"] == "bad"
        assert await db.value(finding["remedy"].rstrip(";")) is True
    finally:
        holder.terminate()


async def test_a_transaction_with_an_old_snapshot_is_found(db, stack):
    holder = await asyncpg.connect(stack.db_url)
    try:
        pid = await holder.fetchval("select pg_backend_pid()")
        await holder.execute("begin isolation level repeatable read")
        await holder.fetchval("select count(*) from job_queue")
        assert await problems(db, "held snapshots", f"session {pid} ") == []
        await db.pass_time(120)
        (finding,) = await problems(db, "held snapshots", f"session {pid} ")
        assert finding["verdict"] == "warn"
        await db.pass_time(3600)
        (finding,) = await problems(db, "held snapshots", f"session {pid} ")
        assert finding["verdict"] == "bad"
        assert await db.value(finding["remedy"].rstrip(";")) is True
        alive = "select exists (select from pg_stat_activity where pid = $1)"
        async with asyncio.timeout(10):
            while await db.value(alive, pid):
                await db.run("select pg_stat_clear_snapshot()")
    finally:
        holder.terminate()


async def test_every_missing_index_is_found_and_created_again(db):
    indexes = (
        "select indexname, indexdef from pg_indexes"
        " where schemaname = 'public' and tablename = 'job_queue'"
    )
    before = {r["indexname"]: r["indexdef"] for r in await db.rows(indexes)}
    for name in before.keys() - {"job_queue_pkey"}:
        await db.run(f"drop index public.{name}")
    findings = await problems(db, "indexes", "is missing")
    assert len(findings) == len(before) - 1
    assert await problems(db, "jobs", "not checked while an index is missing")
    for finding in findings:
        await db.run(finding["remedy"])
    assert {r["indexname"]: r["indexdef"] for r in await db.rows(indexes)} == before
    assert await problems(db, "indexes") == []


async def test_an_invalid_index_is_found(db, stack):
    admin = await asyncpg.connect(stack.db_url)
    try:
        # A failed `create index concurrently` leaves this state.
        await admin.execute("insert into picture_queue.freed_key values ('twice'), ('twice')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await admin.execute(
                "create unique index concurrently half_made on picture_queue.freed_key (key)"
            )
        (finding,) = await problems(db, "indexes", "half_made is not valid")
        assert finding["remedy"] == "reindex index concurrently picture_queue.half_made;"
    finally:
        await admin.execute("drop index if exists picture_queue.half_made")
        await admin.execute("delete from picture_queue.freed_key where key = 'twice'")
        await admin.close()


@pytest.mark.parametrize(("counted", "ended"), [(0, 0), (5, 0), (5, 2), (1, 1)])
async def test_limit_keys_with_a_wrong_count_are_recounted(db, counted, ended):
    """Two jobs run, but the count of the key minus the ended jobs in freed_key is not two."""
    key = f"sql-{uuid4().hex}"
    await db.value("select set_limit($1, max_running => 9)", key)
    for _ in range(3):
        await db.enqueue(options={"limit_keys": [key]})
    done, *_ = await db.claim(3)
    await db.report(done, "completed")
    assert await problems(db, "orphans", "limit keys whose count") == []
    await db.run("update picture_queue.limit_key set running = $2 where key = $1", key, counted)
    await db.run("delete from picture_queue.freed_key where key = $1", key)
    await db.run("insert into picture_queue.freed_key (key, n) values ($1, $2)", key, ended)
    await check_remedy(db, "orphans", "1 limit keys with a wrong count of running jobs")
    (limit,) = [row for row in await db.value("select list_limits()") if row["key"] == key]
    assert limit["running"] == 2
    running = "select running from picture_queue.limit_key where key = $1"
    assert await db.value(running, key) == 2
    await db.maintain()
    assert await db.value(running, key) == 2


async def test_a_limit_key_without_a_row_is_recounted(db):
    key = f"sql-{uuid4().hex}"
    await db.value("select set_limit($1, max_running => 1)", key)
    for _ in range(2):
        await db.enqueue(options={"limit_keys": [key]})
    await db.claim()
    await db.run("delete from picture_queue.limit_key where key = $1", key)
    await check_remedy(db, "orphans", "1 limit keys with a wrong count of running jobs")
    assert await db.claim() == [], "one job runs already, and the limit is one"


async def test_a_job_that_ends_during_a_recount_is_subtracted_once(own_database, until):
    """The job ends while a trigger delays the recount, which has deleted rows of freed_key."""
    repairer, reporter = [await asyncpg.connect(own_database, timeout=10) for _ in range(2)]
    try:
        await repairer.execute("select set_limit('key', max_running => 9)")
        options = '{"limit_keys": ["key"]}'
        for _ in range(3):
            await repairer.execute("select enqueue_job('t', queue => 'q', options => $1)", options)
        claimed = await repairer.fetchval("select claim_jobs('w', '{q}', '{t}', 3)")
        outcomes = [
            {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "completed"}
            for job in json.loads(claimed)
        ]
        await repairer.execute("select report_jobs($1)", json.dumps(outcomes[:1]))
        await repairer.execute(
            """create function public.pause() returns trigger language plpgsql as $$
            begin perform pg_advisory_xact_lock(7, 7); return null; end $$;
            create trigger pause after delete on picture_queue.freed_key
            for each statement execute function public.pause()"""
        )
        await reporter.execute("select pg_advisory_lock(7, 7)")
        recount = asyncio.create_task(repairer.execute("select picture_queue.repair()"))
        waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
        await until(lambda: reporter.fetchval(waits))
        await reporter.execute("select report_jobs($1)", json.dumps(outcomes[1:2]))
        await reporter.execute("select pg_advisory_unlock(7, 7)")
        await recount
        running = "select running from picture_queue.limit_key where key = 'key'"
        freed = "select coalesce(sum(n), 0) from picture_queue.freed_key where key = 'key'"
        assert await repairer.fetchval(running) - await repairer.fetchval(freed) == 1
    finally:
        await asyncio.gather(repairer.close(), reporter.close())


async def test_a_count_of_running_jobs_that_do_not_exist_is_corrected(db):
    await db.run("insert into picture_queue.limit_key (key, running) values ('sql-lost', 3)")
    await check_remedy(db, "orphans", "limit keys with a wrong count of running jobs")
    running = "select running from picture_queue.limit_key where key = 'sql-lost'"
    assert await db.value(running) == 0


async def test_a_job_that_waits_for_a_deleted_parent_becomes_claimable(db):
    parent = await db.enqueue()
    child = await db.enqueue(options={"depends_on": [str(parent)]})
    await db.run("delete from job_queue where id = $1", parent)
    await db.run("delete from picture_queue.depth_change")
    assert await problems(db, "orphans", "dependencies on a job") == [], (
        "maintenance will resolve the child, because a follow-up records the deletion"
    )
    await db.run("delete from picture_queue.follow_up where subject = $1", child)
    await check_remedy(db, "orphans", "dependencies on a missing or finished job")
    assert (await db.job(child))["hold"] is None


async def test_a_new_child_of_a_deleted_parent_needs_no_repair(db):
    parent = await db.enqueue()
    child = await db.enqueue(options={"depends_on": [str(parent)]})
    await db.run("delete from job_queue where id = $1", parent)
    await db.maintain()
    assert (await db.job(child))["hold"] is None


async def test_jobs_blocked_on_a_key_with_free_slots_are_found_and_unblocked(db):
    key = f"sql-{uuid4().hex}"
    await db.value("select set_limit($1, max_running => 1)", key)
    for _ in range(2):
        await db.enqueue(options={"limit_keys": [key]})
    (job,) = await db.claim(2)
    (waiting,) = await db.rows(
        "select id, hold from job_queue where queue = $1 and id <> $2", db.queue, UUID(job["id"])
    )
    assert waiting["hold"] == "blocked"
    assert await problems(db, "orphans", "keys that jobs wait for") == [], "no slot is free"
    await db.report(job, "completed")
    assert await problems(db, "orphans", "keys that jobs wait for") == [], (
        "maintenance will unblock the job, because freed_key records the end of the other job"
    )
    await db.run("delete from picture_queue.freed_key where key = $1", key)
    await db.run("update picture_queue.limit_key set running = 0 where key = $1", key)
    await check_remedy(
        db, "orphans", "1 limit keys that have capacity, but whose waiting jobs are not unblocked"
    )
    assert (await db.job(waiting["id"]))["hold"] == "blocked"
    await db.maintain()
    assert (await db.job(waiting["id"]))["hold"] is None
    assert [claimed["id"] for claimed in await db.claim()] == [str(waiting["id"])]


async def test_a_batch_with_wrong_counts_is_recounted(db):
    items = [{"job_type": "sql-resize", "queue": db.queue}] * 3
    batch = UUID((await db.value("select enqueue_batch($1)", items))["batch_id"])
    (job,) = await db.claim()
    await db.report(job, "completed")
    assert await problems(db, "orphans", "batches") == []
    await db.run("update picture_queue.batch set completed = 0 where id = $1", batch)
    await check_remedy(db, "orphans", "1 open batches whose counts do not match")
    assert (await db.value("select get_batch($1)", batch))["completed"] == 1


async def test_wrong_counts_of_a_queue_are_corrected(db):
    await db.value("select picture_queue.repair()")
    assert await problems(db, "counts") == []
    await db.enqueue()
    await db.enqueue()
    await db.run(
        "delete from job_queue where id = (select id from job_queue where queue = $1 limit 1)",
        db.queue,
    )
    await check_remedy(db, "counts", "the count of pending jobs is")
    rows = await db.value("select queue_counts()")
    assert next(row["pending"] for row in rows if row["queue"] == db.queue) == 1


async def test_a_repair_does_not_change_the_throughput(db):
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        values ($1, 'x', 'failed', now())""",
        db.queue,
    )
    await db.value("select set_queue($1)", db.queue)
    await db.value("select picture_queue.repair()")
    await db.value("select picture_queue._aggregate_depth(100000)")
    rows = await db.value("select queue_counts()")
    (row,) = [row for row in rows if row["queue"] == db.queue]
    assert (row["failed"], row["finished_last_hour"]) == (1, 0)
    n = await db.value("select count(*) from picture_queue.throughput where queue = $1", db.queue)
    assert n == 0


async def test_overdue_jobs_are_reported_with_their_reason(db):
    text = f"queue {db.queue}: "
    # The doctor reports the 20 queues that wait longest. Queues of other tests are deleted.
    await db.run("delete from picture_queue.queue")
    await db.enqueue("sql-resize")
    assert await problems(db, "overdue jobs", text) == []
    await db.pass_time(90)
    (finding,) = await problems(db, "overdue jobs", text)
    assert "no worker for job type sql-resize" in finding["detail"]
    assert "start a worker" in finding["remedy"]
    await db.value("select register_worker('w9', $1, '{\"sql-resize\": {}}')", [db.queue])
    (finding,) = await problems(db, "overdue jobs", text)
    assert "its workers do not keep up" in finding["detail"]
    await db.value("select pause_queue($1, null, 'lunch')", db.queue)
    (finding,) = await problems(db, "overdue jobs", text)
    assert finding["verdict"] == "warn"
    assert finding["detail"].endswith("the queue is paused: lunch")
    await db.run(finding["remedy"])
    until = "select paused_until from picture_queue.queue where name = $1"
    assert await db.value(until, db.queue) is None
    await db.claim()
    assert await problems(db, "overdue jobs", text) == []


async def test_expired_leases_are_found_and_swept(db):
    await db.maintain()  # Sweep the leases that other tests left behind.
    await db.enqueue()
    (job,) = await db.claim(lease=5.0)
    assert await problems(db, "overdue jobs", "have a lease that expired") == []
    await db.pass_time(120, maintained=False)
    await check_remedy(db, "overdue jobs", "have a lease that expired")
    assert (await db.job(job["id"]))["status"] == "pending"


async def test_a_lease_that_was_extended_while_its_job_was_locked_is_not_overdue(db):
    await db.maintain()
    await db.enqueue()
    (job,) = await db.claim(lease=5.0)
    await db.run(
        """insert into picture_queue.lease_extension
        values ($1, $2, picture_queue._now() + interval '150 seconds')""",
        job["id"],
        job["lease_id"],
    )
    await db.pass_time(120)
    assert await problems(db, "overdue jobs", "have a lease that expired") == []
    await db.pass_time(120, maintained=False)
    await check_remedy(db, "overdue jobs", "have a lease that expired")


async def test_due_jobs_are_found_and_promoted(db):
    job = await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(seconds=30))
    await db.pass_time(120, maintained=False)
    await check_remedy(db, "overdue jobs", "were not promoted")
    assert (await db.job(job))["hold"] is None


async def test_failed_steps_are_reported_with_their_error(db):
    await db.run(
        """create function public.trap() returns trigger language plpgsql as $$
        begin raise exception 'refused by a trigger'; end $$;
        create trigger trap before update on public.job_queue for each row
        when (new.job_type = 'sql-bad' and old.hold = 'scheduled' and new.hold is null)
        execute function public.trap()"""
    )
    job = await db.enqueue("sql-bad", options={"delay_seconds": 1})
    assert await problems(db, "failed steps") == []
    await db.pass_time(2)
    (finding,) = await problems(db, "failed steps", f"promoting job {job} failed 1 times since")
    assert finding["verdict"] == "bad"
    assert finding["detail"].endswith("refused by a trigger")
    assert "your own triggers and constraints on public.job_queue" in finding["remedy"]
    await db.run("drop trigger trap on public.job_queue")
    await db.pass_time(3)
    assert await problems(db, "failed steps") == []


async def test_a_table_without_row_level_security_is_found(db):
    await db.run("alter table picture_queue.batch disable row level security")
    await check_remedy(db, "privileges", "table picture_queue.batch has no row level security")
    await db.run("alter table public.job_queue disable row level security")
    await check_remedy(db, "privileges", "job_queue has no row level security")


async def test_a_partition_without_row_level_security_is_found(db):
    await db.value("select picture_queue._archive_partition('2031-05-05')")
    await db.run("alter table picture_queue.archive_2031_05 disable row level security")
    await check_remedy(db, "privileges", "archive_2031_05 has no row level security")


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (
            "grant execute on function public.enqueue_job to anon",
            "anon may execute public.enqueue_job(",
        ),
        (
            "grant execute on function public.list_jobs to public",
            "anon may execute public.list_jobs(",
        ),
        (
            "grant execute on function picture_queue._transition to anon",
            "anon may execute picture_queue._transition(",
        ),
        (
            "revoke execute on function public.claim_jobs from service_role",
            "service_role may not execute public.claim_jobs(",
        ),
        ("grant select on picture_queue.setting to anon", "anon may write or read picture_queue.s"),
        ("grant update on public.job_queue to authenticated", "authenticated may write or read"),
        (
            "revoke select on public.job_queue from service_role",
            "service_role may not read public.j",
        ),
        (
            "revoke usage on schema picture_queue from service_role",
            "service_role may not use schema picture_queue",
        ),
    ],
)
async def test_missing_and_excess_privileges_are_found(db, broken, text):
    assert await problems(db, "privileges") == []
    await db.run(broken)
    await check_remedy(db, "privileges", text)


async def test_the_doctor_knows_every_public_function(db):
    known = await db.rows(
        "select oid::regproc::text as name from picture_queue._our_functions() where is_public"
    )
    rows = await db.rows(
        """select p.oid::regproc::text as name from pg_proc p
        where p.pronamespace = 'public'::regnamespace and not exists (
          select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"""
    )
    assert {r["name"] for r in known} == {r["name"] for r in rows}


async def test_overdue_maintenance_is_found(db):
    await db.run("update picture_queue.maintenance set round_began_at = '-infinity'")
    await check_remedy(db, "maintenance", "never done", "warn")
    await db.pass_time(400)
    await check_remedy(db, "maintenance", "not done for 40", "warn")
    await db.pass_time(7200)
    await check_remedy(db, "maintenance", "not done for 7", "bad")


async def test_a_wrong_clock_is_found(db):
    now = datetime.now(UTC)
    assert await problems(db, "clock", client_time=now) == []
    (finding,) = await problems(db, "clock", client_time=now - timedelta(seconds=20))
    assert finding["verdict"] == "warn"
    (finding,) = await problems(db, "clock", client_time=now + timedelta(minutes=5))
    assert finding["verdict"] == "bad"
    assert await problems(db, "clock") == []


async def test_unsuitable_settings_are_found(db):
    await db.value("select set_setting($1)", {"lease_seconds": 3})
    await check_remedy(db, "settings", "lease_seconds is 3", "warn")
    await db.value("select set_queue($1, $2)", db.queue, {"lease_seconds": 2})
    await check_remedy(db, "settings", f"queue {db.queue} has lease_seconds 2", "warn")
    await db.value("select set_setting($1)", {"keep_completed_seconds": 4e7})
    await check_remedy(db, "settings", "kept for over a year", "warn")
    await db.run("alter table public.job_queue set (autovacuum_enabled = off)")
    await check_remedy(db, "settings", "autovacuum is off for")


async def test_dead_rows_are_found_until_they_are_vacuumed(db, stack):
    admin = await asyncpg.connect(stack.db_url)
    try:
        await admin.execute("alter table picture_queue.freed_key set (autovacuum_enabled = off)")
        await admin.execute(
            "insert into picture_queue.freed_key select 'sql-dead' from generate_series(1, 30000)"
        )
        await admin.execute("delete from picture_queue.freed_key where key = 'sql-dead'")
        await admin.execute("select pg_stat_force_next_flush()")
        await admin.execute("select 1")
        await db.run("select pg_stat_clear_snapshot()")
        (finding,) = await problems(db, "dead rows", "picture_queue.freed_key has")
        assert finding["remedy"] == "vacuum (analyze) picture_queue.freed_key;"
        await admin.execute(finding["remedy"])
        await admin.execute("select pg_stat_force_next_flush()")
        await admin.execute("select 1")
        await db.run("select pg_stat_clear_snapshot()")
        assert await problems(db, "dead rows", "picture_queue.freed_key has") == []
    finally:
        await admin.execute("delete from picture_queue.freed_key where key = 'sql-dead'")
        await admin.execute("alter table picture_queue.freed_key reset (autovacuum_enabled)")
        await admin.close()
