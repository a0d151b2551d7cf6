"""Counts for dashboards and autoscalers: exact, and without a scan of all jobs."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

USER = uuid4()


async def queue_counts(db, queue=None):
    rows = await db.value("select queue_counts()")
    return next(row for row in rows if row["queue"] == (queue or db.queue))


async def aggregate(db):
    return await db.value("select picture_queue._aggregate_depth(1000000)")


async def desired_workers(db, *args):
    return await db.value(
        f"select desired_workers({', '.join(f'${i + 1}' for i in range(len(args) + 1))})",
        db.queue,
        *args,
    )


async def test_each_state_is_counted_before_and_after_aggregation(db):
    await db.value("select set_limit('sql-full', max_running => 1)")
    for arguments in (
        {},
        {},
        {"scheduled_for": datetime.now(UTC) + timedelta(hours=1)},
        {"options": {"limit_keys": ["sql-full"]}, "priority": 9},
        {"options": {"limit_keys": ["sql-full"]}, "priority": 9},
        {"priority": 8},
        {"priority": 7},
        {"priority": 6},
        {"priority": 5},
        {"priority": 4},
    ):
        await db.enqueue(**arguments)
    parent = await db.enqueue()
    await db.enqueue(options={"depends_on": [str(parent)]})
    first, *jobs = await db.claim(6)
    assert first["priority"] == 9
    await db.report(jobs[0], "completed")
    await db.report(jobs[1], "failed", retryable=False)
    await db.report(jobs[2], "cancelled")
    await db.report(jobs[3], "parked", delay_seconds=60)
    expected = {
        "pending": 3, "scheduled": 1, "blocked": 1, "waiting": 1, "processing": 2, "parked": 1,
        "completed": 1, "failed": 1, "cancelled": 1,
        "finished_last_minute": 3, "finished_last_hour": 3,
    }  # fmt: skip
    before = await queue_counts(db)
    assert {key: before[key] for key in expected} == expected
    assert before["oldest_seconds"] >= 0
    assert await aggregate(db) > 0
    after = await queue_counts(db)
    assert {key: after[key] for key in expected} == expected
    assert sum(expected[state] for state in list(expected)[:9]) == await db.value(
        "select count(*) from job_queue where queue = $1", db.queue
    )


async def test_aggregation_adds_finished_jobs_to_their_minute(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "completed")
    await aggregate(db)
    rows = "select n from picture_queue.throughput where queue = $1"
    assert await db.rows(rows, db.queue) == [], "changes of the last minute stay unaggregated"
    await db.pass_time(90)
    assert (await queue_counts(db))["finished_last_minute"] == 0
    assert (await queue_counts(db))["finished_last_hour"] == 1
    await aggregate(db)
    assert await db.rows(rows, db.queue) == [{"n": 1}]
    assert (await queue_counts(db))["finished_last_hour"] == 1
    assert (await queue_counts(db))["completed"] == 1
    left = await db.value(
        "select count(*) from picture_queue.depth_change where queue = $1", db.queue
    )
    assert left == 0
    await db.pass_time(3700)
    assert (await queue_counts(db))["finished_last_hour"] == 0


async def test_an_aggregation_takes_a_bounded_number_of_rows(db):
    for _ in range(5):
        await db.enqueue()
    await db.run("delete from picture_queue.depth_change where queue <> $1", db.queue)
    assert await db.value("select picture_queue._aggregate_depth(2)") == 2
    assert (await queue_counts(db))["pending"] == 5
    assert await aggregate(db) == 3
    assert (await queue_counts(db))["pending"] == 5


async def test_the_oldest_due_job_is_found_at_any_priority(db):
    await db.enqueue(priority=-5)
    await db.pass_time(100)
    for priority in (0, 3, 9):
        await db.enqueue(priority=priority)
    await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(hours=1))
    assert 100 <= (await queue_counts(db))["oldest_seconds"] < 110


async def test_the_age_of_a_job_begins_when_it_is_due(db):
    await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(seconds=50))
    await db.pass_time(60)
    await db.maintain()
    assert 9 <= (await queue_counts(db))["oldest_seconds"] < 20


async def test_failed_jobs_of_the_last_day_are_counted_instead_of_failures(db):
    """A job that failed twice counts once. A job that was retried does not count."""

    async def failed_last_day():
        sql = "select failed_last_day from queue_health where queue = $1"
        return await db.value(sql, db.queue)

    job = await db.enqueue(max_attempts=1)
    for _ in range(2):
        (claimed,) = await db.claim()
        await db.report(claimed, "failed")
        assert await failed_last_day() == 1
        await db.value("select retry_job($1)", job)
        assert await failed_last_day() == 0
    (claimed,) = await db.claim()
    await db.report(claimed, "completed")
    assert await failed_last_day() == 0
    await db.enqueue(max_attempts=1)
    (claimed,) = await db.claim()
    await db.report(claimed, "failed")
    await db.pass_time(86400 - 60)
    assert await failed_last_day() == 1
    await db.pass_time(120)
    assert await failed_last_day() == 0


async def test_queue_health_counts_jobs_by_state_and_workers(db):
    await db.enqueue()
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "failed", retryable=False)
    (row,) = await db.rows("select * from queue_health where queue = $1", db.queue)
    assert (row["pending"], row["processing"], row["failed_last_day"]) == (1, 0, 1)
    assert row["workers"] == 1
    assert list(row) == [
        "queue", "pending", "scheduled", "processing", "parked", "failed_last_day",
        "oldest_pending_seconds", "workers",
    ]  # fmt: skip
    await db.pass_time(86400 + 120)
    (row,) = await db.rows("select * from queue_health where queue = $1", db.queue)
    assert (row["failed_last_day"], row["workers"]) == (0, 0)


async def test_the_service_role_can_read_queue_health(db):
    await db.enqueue()
    await db.act_as("service_role")
    (row,) = await db.rows("select * from queue_health where queue = $1", db.queue)
    assert row["pending"] == 1


async def test_queue_status_names_job_types_without_a_worker(db):
    await db.enqueue("sql-known")
    await db.enqueue("sql-unknown")
    await db.enqueue("sql-unknown")
    await db.run("select register_worker('w1', $1, '{\"sql-known\": {}}')", [db.queue])
    status = await db.value("select queue_status()")
    own = [row for row in status["job_types_without_worker"] if row["queue"] == db.queue]
    assert own == [{"job_type": "sql-unknown", "queue": db.queue, "pending": 2}]


async def test_the_position_of_a_job_follows_the_order_of_claims(db):
    low, high = await db.enqueue(), await db.enqueue(priority=5)
    second = await db.enqueue()
    for job, position in ((high, 1), (low, 2), (second, 3)):
        assert await db.value("select job_position($1)", job) == {
            "position": position,
            "at_least": False,
        }
    await db.claim()
    assert (await db.value("select job_position($1)", high))["position"] is None
    assert (await db.value("select job_position($1)", low))["position"] == 1


async def test_the_position_is_bounded(db):
    jobs = [{"job_type": "sql-resize", "queue": db.queue}] * 10000
    await db.value("select enqueue_jobs($1)", jobs)
    last = await db.enqueue()
    assert await db.value("select job_position($1)", last) == {
        "position": 10000,
        "at_least": True,
    }
    await db.claim()
    assert await db.value("select job_position($1)", last) == {
        "position": 10000,
        "at_least": False,
    }


async def test_users_see_only_the_positions_of_their_own_jobs(db):
    other = await db.enqueue(user_id=uuid4())
    own = await db.enqueue(user_id=USER)
    await db.act_as("authenticated", USER)
    assert (await db.value("select job_position($1)", own))["position"] == 2
    error = await db.refusal("select job_position($1)", other)
    assert (error.sqlstate, error.message) == ("PT404", "PQ_UNKNOWN_JOB: no such job")


async def test_desired_workers_counts_running_and_ready_jobs(db):
    for _ in range(25):
        await db.enqueue()
    await db.claim(3)
    assert await desired_workers(db) == {"desired": 3, "running": 3, "ready": 22}
    assert (await desired_workers(db, 25))["desired"] == 1
    assert (await desired_workers(db, 1, 0, 7))["desired"] == 7
    assert (await desired_workers(db, 100, 4))["desired"] == 4


async def test_desired_workers_of_a_paused_queue_counts_only_running_jobs(db):
    for _ in range(5):
        await db.enqueue()
    await db.claim(1)
    await db.value("select pause_queue($1)", db.queue)
    assert await desired_workers(db, 1) == {"desired": 1, "running": 1, "ready": 0}


async def test_a_due_job_counts_as_ready(db):
    await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(seconds=30))
    assert (await desired_workers(db))["ready"] == 0
    await db.pass_time(31, maintained=False)
    assert (await desired_workers(db))["ready"] == 1
    assert (await desired_workers(db))["desired"] == 1


async def test_a_due_schedule_requires_a_worker(db):
    await db.run("update picture_queue.schedule set paused = true, next_at = null")
    await db.run("delete from picture_queue.freed_key")
    await db.value("select set_queue($1)", db.queue)
    await db.value(
        "select set_schedule('sql-due', $1)", {"every_seconds": 60, "job_type": "sql-resize"}
    )
    assert (await desired_workers(db))["desired"] == 0
    await db.pass_time(61, maintained=False)
    assert (await desired_workers(db))["desired"] == 1


@pytest.mark.parametrize("args", [(0,), (10, -1), (10, 5, 4)])
async def test_invalid_numbers_of_workers_are_refused(db, args):
    await db.enqueue()
    names = ["jobs_per_worker", "min_workers", "max_workers"][: len(args)]
    arguments = ", ".join(f"{n} => {a}" for n, a in zip(names, args, strict=True))
    error = await db.refusal(f"select desired_workers({arguments})")
    assert error.message.startswith("PQ_INVALID_ARGUMENT")


async def test_desired_workers_refuses_an_unknown_queue(db):
    error = await db.refusal("select desired_workers('sql-no-such')")
    assert error.message == "PQ_UNKNOWN_QUEUE: no such queue"


async def test_counts_do_not_scan_the_jobs(db):
    """The calls count jobs among 50,000 finished jobs, without reading their rows."""
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        select $1, 'sql-many', 'completed', now() from generate_series(1, 50000)""",
        db.queue,
    )
    await db.run("analyze job_queue")
    await db.value("select set_queue($1)", db.queue)
    job = await db.enqueue()
    read = (
        "select pg_stat_get_xact_tuples_returned('public.job_queue'::regclass)"
        " + pg_stat_get_xact_tuples_fetched('public.job_queue'::regclass)"
    )
    for call in (
        "queue_counts()",
        "queue_status()",
        "desired_workers()",
        f"job_position('{job}')",
        "(select count(*) from queue_health)",
    ):
        before = await db.value(read)
        await db.value(f"select {call}")
        assert await db.value(read) - before < 20000, call
    before = await db.value(read)
    await db.value("select count(payload) from job_queue")
    assert await db.value(read) - before >= 50000, "the measurement works"


async def test_counts_stay_exact_during_concurrent_work_and_aggregation(stack, db):
    queue = f"{db.queue}-busy"
    connections = [await asyncpg.connect(stack.db_url) for _ in range(4)]
    *workers, service = connections
    busy = True

    async def work(connection, name):
        for n in range(15):
            items = [{"job_type": "sql-busy", "queue": queue, "max_attempts": 1}] * 5
            await connection.execute("select enqueue_jobs($1)", json.dumps(items))
            jobs = json.loads(
                await connection.fetchval(
                    "select claim_jobs($1, $2, '{sql-busy}', 4, 60, $3)", name, [queue], uuid4()
                )
            )
            outcomes = [
                {"job_id": j["id"], "lease_id": j["lease_id"], "outcome": outcome}
                for j, outcome in zip(jobs, ["completed", "failed", "snoozed"], strict=False)
            ]
            await connection.execute("select report_jobs($1)", json.dumps(outcomes))
            if n % 5 == 4:
                arguments = json.dumps({"queue": queue, "status": "failed", "limit": 2})
                await connection.execute("select change_jobs('discard', $1)", arguments)

    async def aggregate_continuously():
        while busy:
            await service.execute("select picture_queue._aggregate_depth(7)")

    try:
        aggregation = asyncio.create_task(aggregate_continuously())
        await asyncio.gather(*(work(c, f"w{i}-{queue}") for i, c in enumerate(workers)))
        busy = False
        await aggregation
        row = await queue_counts(db, queue)
        found = await db.rows(
            """select coalesce(hold, status) as state, count(*) as n from job_queue
            where queue = $1 group by 1""",
            queue,
        )
        states = {count["state"]: count["n"] for count in found}
        assert {state: row[state] for state in states} == states
        assert states.keys() >= {"pending", "completed", "failed", "processing"}
        assert sum(states.values()) < 225, "some jobs were discarded"
        # Each worker finished two jobs in each of 15 rounds. A discarded job counts too.
        assert row["finished_last_hour"] == 3 * 15 * 2
    finally:
        busy = False
        for status in ("pending", "processing"):
            await service.execute(
                "select change_jobs('cancel', $1)", json.dumps({"queue": queue, "status": status})
            )
        await service.execute("select change_jobs('discard', $1)", json.dumps({"queue": queue}))
        await service.execute("delete from job_queue where queue = $1", queue)
        await service.execute("delete from picture_queue.depth where queue = $1", queue)
        await service.execute("delete from picture_queue.depth_change where queue = $1", queue)
        await service.execute("delete from picture_queue.throughput where queue = $1", queue)
        await service.execute("delete from picture_queue.worker where name like '%' || $1", queue)
        for connection in connections:
            await connection.close()


async def test_list_queues_adds_up_the_counts_of_all_queues_in_one_scan(db):
    """A scan for each of 100 queues would take three seconds with 200,000 rows of depth_change."""
    for i in range(5):
        await db.value("select set_queue($1)", f"{db.queue}-{i}")
    scans = "select pg_stat_get_xact_numscans('picture_queue.depth_change'::regclass)"
    before = await db.value(scans)
    queues = await db.value("select list_queues()")
    assert await db.value(scans) - before == 1
    assert {f"{db.queue}-{i}" for i in range(5)} <= {queue["name"] for queue in queues}
