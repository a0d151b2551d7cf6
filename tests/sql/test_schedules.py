"""Schedules: the times at which they enqueue (ticks), missed ticks, and one job for each tick."""

from datetime import datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

START_TIME = "2024-03-30 12:00:00+00"


@pytest.fixture
async def clock(db):
    """Freeze the clock of all SQL functions; return a function that sets it."""

    async def set_now(at):
        await db.run(
            f"""create or replace function picture_queue._now() returns timestamptz
            language sql volatile set search_path = pg_catalog, pg_temp
            as $$ select '{at}'::timestamptz $$"""
        )
        return datetime.fromisoformat(str(at))

    await set_now(START_TIME)
    return set_now


RUN_DUE_SCHEDULES = "select (picture_queue._do_due_steps($1, false) ->> 'scheduled')::integer"


async def run_due_schedules(db, limit=100):
    return await db.value(RUN_DUE_SCHEDULES, limit)


async def set_schedule(db, name="sql-tick", **fields):
    fields = {"job_type": "sql-resize", "queue": db.queue, **fields}
    return await db.value("select set_schedule($1, $2)", name, fields)


async def find_schedule(db, name="sql-tick"):
    rows = await db.value("select list_schedules()")
    return next((row for row in rows if row["name"] == name), None)


async def list_jobs(db):
    return await db.rows(
        "select id, payload, metadata from job_queue where queue = $1 order by seq",
        db.queue,
    )


async def tick_times(db):
    return [job["metadata"]["tick"][:19].replace("T", " ") for job in await list_jobs(db)]


async def test_an_interval_does_not_drift_when_its_ticks_run_late(db, clock):
    row = await set_schedule(db, every_seconds=90.5)
    assert row["next_at"].startswith("2024-03-30T12:01:30.5")
    for elapsed in (91, 182, 299, 364):
        await clock(datetime.fromisoformat(START_TIME) + timedelta(seconds=elapsed))
        assert await run_due_schedules(db) == 1
    times = [job["metadata"]["tick"] for job in await list_jobs(db)]
    assert [at[14:21] for at in times] == ["01:30.5", "03:01+0", "04:31.5", "06:02+0"]


async def test_an_interval_is_exact_after_a_billion_seconds(db, clock):
    await set_schedule(db, every_seconds=1.1, missed="once")
    await clock("2055-03-30 12:00:00+00")
    assert await run_due_schedules(db) == 1
    row = await find_schedule(db)
    created, at = (datetime.fromisoformat(row[name]) for name in ("created_at", "next_at"))
    assert ((at - created) // timedelta(microseconds=1)) % 1_100_000 == 0
    assert at > datetime.fromisoformat("2055-03-30 12:00:00+00")


async def test_ticks_follow_the_summer_time_of_the_time_zone(db, clock):
    row = await set_schedule(db, cron="0  9 * * *", timezone="europe/berlin")
    assert (row["cron"], row["timezone"]) == ("0 9 * * *", "Europe/Berlin")
    assert row["next_at"].startswith("2024-03-31T07:00")  # summer time began that night
    for at in ("2024-03-31 07:00:00+00", "2024-04-30 07:00:00+00"):
        await clock(at)
        await run_due_schedules(db)
    assert await tick_times(db) == ["2024-03-31 07:00:00", "2024-04-30 07:00:00"]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ("skip", []),
        ("once", ["2024-03-30 15:00:00"]),
        ("all", ["2024-03-30 13:00:00", "2024-03-30 14:00:00", "2024-03-30 15:00:00"]),
    ],
)
async def test_missed_ticks_are_skipped_or_run_late(db, clock, missed, expected):
    await set_schedule(db, cron="0 * * * *", missed=missed)
    await clock("2024-03-30 15:30:00+00")
    assert await run_due_schedules(db) == len(expected)
    assert await run_due_schedules(db) == 0
    assert await tick_times(db) == expected
    row = await find_schedule(db)
    assert row["next_at"].startswith("2024-03-30T16:00")
    assert (row["last_at"] is None) == (not expected)


@pytest.mark.parametrize(("seconds", "count"), [(60, 1), (119, 1), (121, 0)])
async def test_a_tick_under_two_minutes_late_is_not_missed(db, clock, seconds, count):
    await set_schedule(db, cron="0 13 * * *", missed="skip")
    await clock(datetime.fromisoformat("2024-03-30 13:00:00+00") + timedelta(seconds=seconds))
    assert await run_due_schedules(db) == count
    assert (await find_schedule(db))["next_at"].startswith("2024-03-31T13:00")


async def test_missed_ticks_run_in_bounded_steps(db, clock):
    await set_schedule(db, every_seconds=1, missed="all")
    await set_schedule(db, "sql-other", every_seconds=1, missed="all")
    await clock("2024-03-30 12:01:00+00")
    assert [await run_due_schedules(db, 50) for _ in range(4)] == [50, 50, 20, 0]
    assert (
        len({(job["metadata"]["schedule"], job["metadata"]["tick"]) for job in await list_jobs(db)})
        == 120
    )


async def test_maintenance_runs_due_schedules_without_pg_cron(db, clock):
    await set_schedule(
        db, every_seconds=60, payload={"size": 3}, priority=7, options={"metadata": {"by": "me"}}
    )
    await db.maintain()
    assert await db.claim() == []
    await clock("2024-03-30 12:01:00+00")
    await db.maintain()
    (job,) = await db.claim()
    assert (job["payload"], job["priority"]) == ({"size": 3}, 7)
    assert job["metadata"] == {
        "by": "me", "schedule": "sql-tick", "tick": "2024-03-30T12:01:00+00:00"
    }  # fmt: skip
    row = await find_schedule(db)
    assert (row["last_job_id"], row["last_error"]) == (job["id"], None)
    assert row["last_at"].startswith("2024-03-30T12:01:00")


async def test_maintenance_returns_the_number_of_scheduled_jobs(db, clock):
    await set_schedule(db, every_seconds=60)
    await clock("2024-03-30 12:01:00+00")
    assert (await db.value("select maintain_jobs(true)"))["scheduled"] == 1


async def test_a_paused_schedule_has_no_missed_ticks(db, clock):
    await set_schedule(db, cron="0 * * * *", missed="all")
    for _ in range(2):
        row = await db.value("select pause_schedule('sql-tick')")
        assert (row["paused"], row["next_at"]) == (True, None)
    await clock("2024-03-30 15:30:00+00")
    assert await run_due_schedules(db) == 0
    assert (await set_schedule(db, cron="30 * * * *", missed="all"))["paused"], (
        "a paused schedule that is set again stays paused"
    )
    for _ in range(2):
        row = await db.value("select resume_schedule('sql-tick')")
        assert (row["paused"], row["next_at"][:16]) == (False, "2024-03-30T16:30")
    assert await run_due_schedules(db) == 0


async def test_a_schedule_can_be_created_paused_and_run_manually(db, clock):
    await set_schedule(db, cron="0 * * * *", paused=True, payload={"a": 1})
    job_id = uuid4()
    for _ in range(2):
        answer = await db.value("select run_schedule('sql-tick', $1)", job_id)
        assert answer["job_id"] == str(job_id)
    assert [job["payload"] for job in await list_jobs(db)] == [{"a": 1}]
    assert (await db.value("select run_schedule('sql-tick')"))["outcome"] == "created"
    assert (await find_schedule(db))["last_at"] is None, "a manual run is not a tick"


async def test_setting_an_equal_schedule_changes_nothing(db, clock):
    fields = {"cron": "*/5 * * * *", "timezone": "Asia/Kathmandu", "payload": {"a": 1}}
    first = await set_schedule(db, **fields)
    await clock("2024-03-30 12:20:00+00")
    assert await set_schedule(db, **fields) == first
    changed = await set_schedule(db, **fields | {"payload": {"a": 2}})
    assert changed["next_at"] == first["next_at"], "a new payload does not move the next tick"
    assert changed["updated_at"] != first["updated_at"]
    assert (await set_schedule(db, cron="0 0 * * *"))["next_at"].startswith("2024-03-31T00:00")


async def test_a_failing_schedule_records_its_error_and_other_schedules_run(db, clock):
    await db.value("select set_setting($1)", {"unknown_queue": "refuse"})
    await set_schedule(db, "sql-a-broken", every_seconds=60, queue=f"{db.queue}-none")
    await db.value("select set_queue($1)", db.queue)
    await set_schedule(db, "sql-b", every_seconds=60)
    await clock("2024-03-30 12:01:00+00")
    assert await run_due_schedules(db) == 1
    broken = await find_schedule(db, "sql-a-broken")
    assert broken["last_error"].startswith("PQ_UNKNOWN_QUEUE")
    assert broken["next_at"].startswith("2024-03-30T12:02:00"), "it is not retried at once"
    await db.value("select set_queue($1)", f"{db.queue}-none")
    await clock("2024-03-30 12:02:00+00")
    assert await run_due_schedules(db) == 2
    assert (await find_schedule(db, "sql-a-broken"))["last_error"] is None


async def test_a_deleted_schedule_leaves_its_jobs(db, clock):
    await set_schedule(db, every_seconds=60)
    await clock("2024-03-30 12:01:00+00")
    await run_due_schedules(db)
    assert await db.value("select delete_schedule('sql-tick')") == {"deleted": True}
    assert await db.value("select delete_schedule('sql-tick')") == {"deleted": False}
    assert await find_schedule(db) is None
    assert len(await list_jobs(db)) == 1


@pytest.mark.parametrize("call", ["pause_schedule", "resume_schedule", "run_schedule"])
async def test_an_unknown_schedule_is_refused(db, call):
    refused = await db.refusal(f"select {call}('sql-none')")
    assert (refused.sqlstate, refused.message.split(":")[0]) == ("PT404", "PQ_UNKNOWN_SCHEDULE")
    assert refused.detail == 'name is "sql-none"'


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({}, "one of cron and every_seconds is needed"),
        ({"cron": "@daily", "every_seconds": 5}, "one of cron and every_seconds is needed"),
        ({"cron": 5}, "cron is 5, not text"),
        ({"every_seconds": 0}, "every_seconds is 0, not 1 to 31536000"),
        ({"every_seconds": "60"}, 'every_seconds is "60", not 1 to 31536000'),
        ({"every_seconds": 1e9}, "every_seconds is 1000000000"),
        ({"every_seconds": 60, "timezone": 2}, "timezone is 2, not text"),
        ({"every_seconds": 60, "missed": "never"}, 'missed is "never", not skip, once or all'),
        ({"every_seconds": 60, "paused": "yes"}, 'paused is "yes", not true or false'),
        ({"every_seconds": 60, "job_id": str(uuid4())}, "job_id is for one job"),
        ({"every_seconds": 60, "idempotency_key": "a"}, "idempotency_key is for one job"),
        ({"every_seconds": 60, "options": {"depends_on": []}}, "options.depends_on is for one job"),
        ({"every_seconds": 60, "job_type": ""}, "job_type"),
        ({"every_seconds": 60, "payload": []}, "payload"),
        ({"every_seconds": 60, "options": {"delay_seconds": -1}}, "delay_seconds"),
    ],
)
async def test_an_invalid_schedule_is_refused(db, fields, detail):
    refused = await db.refusal(
        "select set_schedule('sql-tick', $1)", {"job_type": "sql-resize", **fields}
    )
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert detail in refused.detail


@pytest.mark.parametrize("name", ["", "with space", "-first", "a" * 129])
async def test_an_invalid_name_is_refused(db, name):
    refused = await db.refusal(
        "select set_schedule($1, $2)", name, {"job_type": "sql-resize", "every_seconds": 60}
    )
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert "name is" in refused.detail


async def test_two_connections_enqueue_one_job_for_a_tick(stack, db):
    """The second connection skips the locked schedule; after the commit it is no longer due.

    Unlike the other tests of this file, this test commits.
    """
    name, queue = f"sql-{db.queue}", db.queue
    first, second = [await asyncpg.connect(stack.db_url, timeout=10) for _ in range(2)]
    try:
        await first.execute(
            "select set_schedule($1, jsonb_build_object('every_seconds', 31536000, "
            "'job_type', 'sql-resize', 'queue', $2::text))",
            name, queue,
        )  # fmt: skip
        await first.execute(
            "update picture_queue.schedule set next_at = now() - interval '1 second' "
            "where name = $1",
            name,
        )
        transaction = first.transaction()
        await transaction.start()
        assert await first.fetchval(RUN_DUE_SCHEDULES, 100) >= 1
        assert await second.fetchval(RUN_DUE_SCHEDULES, 100) == 0
        await transaction.commit()
        assert await second.fetchval(RUN_DUE_SCHEDULES, 100) == 0
        count = "select count(*) from job_queue where queue = $1"
        assert await first.fetchval(count, queue) == 1
    finally:
        await second.execute("select delete_schedule($1)", name)
        await first.close(timeout=10)
        await second.close(timeout=10)
