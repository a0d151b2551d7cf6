"""Maintenance: its lease, its behaviour during open transactions, and steps that fail."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.sql.conftest import Database, transaction

#: Keys that only the answer of a call with housekeeping has; one call a minute does it.
HOUSEKEEPING = {"aggregated", "pruned", "deleted_rows", "dropped_partitions", "more"}
#: Frees the lease, and postpones the housekeeping to the next minute.
FREE_LEASE = """update picture_queue.maintenance
set leased_until = '-infinity', worker = null, aggregate_at = 'infinity',
  was_housekeeping = false"""


@pytest.fixture
async def idle_db(own_database: str) -> AsyncIterator[Database]:
    """A database whose maintenance only the test calls, and whose housekeeping is done."""
    async with transaction(own_database) as db:
        await db.value("select picture_queue.maintain()")
        await db.run(FREE_LEASE)
        yield db


async def maintain(db: Database, worker: str | None = None, *, force: bool = False) -> Any:
    return await db.value("select maintain_jobs($1, $2)", force, worker)


async def lease_holder(db: Database) -> str | None:
    return await db.value(
        "select worker from picture_queue.maintenance where leased_until > picture_queue._now()"
    )


async def test_one_worker_holds_the_lease_and_others_get_the_time_of_the_next_call(idle_db):
    late = await idle_db.enqueue(options={"delay_seconds": 1})
    first = await maintain(idle_db, "a")
    assert first["leased"] is True
    assert await lease_holder(idle_db) == "a"
    await idle_db.pass_time(2, maintained=False)
    answer = await maintain(idle_db, "b")
    assert answer.keys() == {"leased", "next_in"}
    assert answer["leased"] is False
    assert 2.5 <= answer["next_in"] <= 3
    assert (await idle_db.job(late))["hold"] == "scheduled", "the call did no maintenance"
    assert (await maintain(idle_db, "a"))["promoted"] == 1
    assert await lease_holder(idle_db) == "a"


async def test_each_call_of_the_holder_renews_the_lease(idle_db):
    await maintain(idle_db, "a")
    for _ in range(3):
        await idle_db.pass_time(4, maintained=False)
        assert (await maintain(idle_db, "b"))["leased"] is False
        assert (await maintain(idle_db, "a"))["leased"] is True
        assert 4.5 <= (await maintain(idle_db, "b"))["next_in"] <= 5


async def test_another_worker_takes_over_an_expired_lease(idle_db):
    await maintain(idle_db, "a")
    await idle_db.pass_time(4.5, maintained=False)
    assert (await maintain(idle_db, "b"))["leased"] is False
    await idle_db.pass_time(0.6, maintained=False)
    assert (await maintain(idle_db, "b"))["leased"] is True
    assert await lease_holder(idle_db) == "b"
    assert (await maintain(idle_db, "a"))["leased"] is False


async def test_another_worker_takes_over_after_unregistration(idle_db):
    for worker in ("a", "b"):
        await idle_db.value("select register_worker($1, $2, '{}')", worker, [idle_db.queue])
    await maintain(idle_db, "a")
    await idle_db.value("select unregister_worker('b')")
    assert (await maintain(idle_db, "b"))["leased"] is False, (
        "the lease of another worker is unchanged"
    )
    await idle_db.value("select unregister_worker('a')")
    assert (await maintain(idle_db, "b"))["leased"] is True


async def test_force_runs_a_round_without_changing_the_lease(idle_db):
    late = await idle_db.enqueue(options={"delay_seconds": 1})
    await maintain(idle_db, "a")
    await idle_db.pass_time(2, maintained=False)
    for worker in ("b", None):
        answer = await maintain(idle_db, worker, force=True)
        assert answer["leased"] is True
        assert answer.keys() > HOUSEKEEPING
    assert (await idle_db.job(late))["hold"] is None
    assert await lease_holder(idle_db) == "a"
    assert (await maintain(idle_db, "b"))["leased"] is False


async def test_a_caller_without_a_name_runs_a_round_without_a_lease(idle_db):
    late = await idle_db.enqueue(options={"delay_seconds": 1})
    await idle_db.pass_time(2, maintained=False)
    assert (await maintain(idle_db))["promoted"] == 1
    assert await lease_holder(idle_db) is None
    assert (await idle_db.job(late))["hold"] is None
    assert (await maintain(idle_db, "a"))["leased"] is True
    assert (await maintain(idle_db))["leased"] is False


@pytest.mark.parametrize("delay", [0.3, 0.7])
async def test_the_next_call_is_due_with_the_next_job(idle_db, delay):
    assert 1.9 < (await maintain(idle_db, "a"))["next_in"] <= 2
    await idle_db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(hours=1))
    assert 1.9 < (await maintain(idle_db, "a"))["next_in"] <= 2
    job = await idle_db.enqueue(options={"delay_seconds": delay})
    due = (await idle_db.job(job))["scheduled_for"]
    now = await idle_db.value("select picture_queue._now()")
    assert 0 < (await maintain(idle_db, "a"))["next_in"] <= (due - now).total_seconds()
    await idle_db.pass_time(delay, maintained=False)
    assert (await maintain(idle_db, "a"))["promoted"] == 1


@pytest.mark.parametrize(
    "due",
    [
        "select set_schedule('sql-soon', jsonb_build_object("
        "'every_seconds', 1, 'job_type', 't', 'queue', '{queue}'))",
        "insert into picture_queue.follow_up (kind, subject, due_at) "
        "values ('parent', gen_random_uuid(), picture_queue._now() + interval '0.4 s')",
        "insert into picture_queue.freed_key (key, n, at) "
        "values ('sql-soon', 0, picture_queue._now() + interval '0.4 s')",
    ],
    ids=["schedule", "follow-up", "limit"],
)
async def test_the_next_call_is_due_with_the_next_step(idle_db, due):
    await idle_db.run(due.format(queue=idle_db.queue))
    await idle_db.pass_time(0.5 if "schedule" in due else 0.01, maintained=False)
    assert 0 < (await maintain(idle_db, "a"))["next_in"] <= 0.5


async def enqueue_and_report(db: Database, outcome: str, **fields: Any) -> None:
    await db.enqueue(payload={"n": 1})
    (job,) = await db.claim()
    await db.report(job, outcome, **fields)


#: Calls that make a step of maintenance due in `n` seconds.
DUE_SOON: dict[str, Any] = {
    "enqueue": lambda db, n: db.enqueue(options={"delay_seconds": n}),
    "bulk": lambda db, n: db.value(
        "select enqueue_jobs($1)",
        [
            {"job_type": "t", "queue": db.queue, "options": {"delay_seconds": wait}}
            for wait in (n, 60)
        ],
    ),
    "retry": lambda db, n: enqueue_and_report(db, "failed", error="no", delay_seconds=n),
    "snooze": lambda db, n: enqueue_and_report(db, "snoozed", delay_seconds=n),
    "park": lambda db, n: enqueue_and_report(db, "parked", delay_seconds=n),
    "key": lambda db, n: db.value(
        "select pause_key('sql-k', picture_queue._now() + make_interval(secs => $1))", float(n)
    ),
    "snooze with pause_key": lambda db, n: enqueue_and_report(
        db, "snoozed", delay_seconds=n, pause_key="sql-k"
    ),
}


@pytest.mark.parametrize("step", DUE_SOON)
async def test_the_holder_is_woken_if_a_step_is_due_before_its_next_call(idle_db, step):
    await idle_db.value("select register_worker('a', $1, '{}')", [idle_db.queue])
    await maintain(idle_db, "a")
    await DUE_SOON[step](idle_db, 3)
    topic = f"pq:queue:{idle_db.queue}"
    wake = {"queue": idle_db.queue, "reason": "maintain"}
    assert wake not in await idle_db.events(topic), "the next call is within two seconds anyway"
    await DUE_SOON[step](idle_db, 0.2)
    assert wake in await idle_db.events(topic)


async def test_the_holder_is_woken_for_a_new_schedule_that_is_due_soon(idle_db):
    await idle_db.value("select register_worker('a', $1, '{}')", [idle_db.queue])
    await maintain(idle_db, "a")
    every = {"every_seconds": 3, "job_type": "t", "queue": idle_db.queue}
    await idle_db.value("select set_schedule('sql-soon', $1)", every)
    await idle_db.value("select pause_schedule('sql-soon')")
    await idle_db.pass_time(2.5, maintained=False)
    await maintain(idle_db, "a")
    topic = f"pq:queue:{idle_db.queue}"
    wake = {"queue": idle_db.queue, "reason": "maintain"}
    assert wake not in await idle_db.events(topic)
    # The next tick is half a second after the creation of the schedule.
    await idle_db.value("select resume_schedule('sql-soon')")
    assert wake in await idle_db.events(topic)


async def test_the_next_call_is_due_at_once_after_a_full_round(idle_db):
    """Promote 2,200 jobs: a round promotes 100 at first, and up to 500 while rounds are quick."""
    await idle_db.run(
        """insert into job_queue (queue, job_type, hold, scheduled_for)
        select $1, 't', 'scheduled', picture_queue._now() from generate_series(1, 2200)""",
        idle_db.queue,
    )
    rounds = [await maintain(idle_db, "a")]
    while rounds[-1]["next_in"] == 0:
        rounds.append(await maintain(idle_db, "a"))
    assert rounds[0]["promoted"] == 100
    assert all(answer["promoted"] <= 500 for answer in rounds)
    assert sum(answer["promoted"] for answer in rounds) == 2200


# Open transactions of other sessions


@pytest.fixture
async def connections(own_database: str) -> AsyncIterator[list["asyncpg.Connection[Any]"]]:
    """Two connections that commit, after a round of maintenance."""
    connections = [await asyncpg.connect(own_database, timeout=10) for _ in range(2)]
    await connections[0].execute("select picture_queue.maintain()")
    await connections[0].execute(FREE_LEASE)
    yield connections
    for connection in connections:
        if connection.is_in_transaction():
            await connection.execute("rollback")
    await connections[0].execute("delete from public.job_queue")
    await connections[0].execute("delete from picture_queue.failed_step")
    await connections[0].execute("update picture_queue.maintenance set prune_at = '-infinity'")
    await asyncio.gather(*(connection.close() for connection in connections))


async def insert_due_job(connection: "asyncpg.Connection[Any]") -> Any:
    """Insert a job that is due to be promoted."""
    return await connection.fetchval(
        "insert into job_queue (queue, job_type, hold, scheduled_for) "
        "values ('held', 't', 'scheduled', now()) returning id"
    )


async def call_maintenance(connection: "asyncpg.Connection[Any]", worker: str) -> Any:
    """Call maintenance, which must not wait for a lock."""
    return json.loads(
        await connection.fetchval("select maintain_jobs(false, $1)", worker, timeout=3)
    )


async def test_a_call_does_not_wait_for_a_round_in_progress(connections):
    blocker, caller = connections
    job = await insert_due_job(blocker)
    await blocker.execute("begin")
    await blocker.execute("select from picture_queue.maintenance for update")
    assert await call_maintenance(caller, "b") == {"leased": False, "next_in": 1}
    hold = "select hold from job_queue where id = $1"
    assert await caller.fetchval(hold, job) == "scheduled"


async def test_a_round_that_does_not_end_is_replaced_after_ten_seconds(connections):
    """Ten seconds after the last finished round, a call ignores the locked row of maintenance."""
    blocker, caller = connections
    job = await insert_due_job(blocker)
    await blocker.execute(
        "update picture_queue.maintenance"
        " set round_began_at = picture_queue._now() - interval '9 s'"
    )
    await blocker.execute("begin")
    await blocker.execute("select from picture_queue.maintenance for update")
    assert (await call_maintenance(caller, "b"))["leased"] is False
    await blocker.execute("rollback")
    await blocker.execute(
        "update picture_queue.maintenance"
        " set round_began_at = picture_queue._now() - interval '11 s'"
    )
    await blocker.execute("begin")
    await blocker.execute("select from picture_queue.maintenance for update")
    answer = await call_maintenance(caller, "b")
    assert (answer["leased"], answer["promoted"]) == (True, 1)
    assert await caller.fetchval("select hold from job_queue where id = $1", job) is None
    assert not HOUSEKEEPING & answer.keys()
    await blocker.execute("rollback")
    await blocker.execute("update picture_queue.maintenance set prune_at = '-infinity'")
    await blocker.execute("begin")
    await blocker.execute("select from picture_queue.maintenance for update")
    answer = await call_maintenance(caller, "b")
    assert (HOUSEKEEPING | {"promoted", "swept"}) <= answer.keys()


@pytest.mark.parametrize(
    "open_transaction",
    [
        "select picture_queue.maintain()",
        "select set_setting('{\"max_attempts\": 4}')",
        "select picture_queue._aggregate_depth(1000)",
        "select picture_queue.prune()",
        "select set_limit('sql-open', 1)",
        "select pause_key('sql-open')",
        'select set_schedule(\'sql-open\', \'{"every_seconds": 1, "job_type": "t"}\')',
        "lock table picture_queue.depth in share mode",
    ],
)
async def test_steps_continue_during_an_open_transaction(connections, open_transaction):
    blocker, caller = connections
    await blocker.execute("select set_limit('sql-open', 2)")
    await blocker.execute("select enqueue_job('t', queue => 'held')")
    await blocker.execute(
        "update picture_queue.maintenance set round_began_at = '-infinity', prune_at = '-infinity'"
    )
    await blocker.execute("begin")
    await blocker.execute(open_transaction)
    for _ in range(2):
        job = await insert_due_job(caller)
        answers = [await call_maintenance(caller, "b") for _ in range(2)]
        assert await caller.fetchval("select hold from job_queue where id = $1", job) is None
        assert sum(answer.get("promoted", 0) for answer in answers) == 1, answers


async def test_steps_continue_while_many_jobs_wait_to_be_pruned(idle_db):
    """Maintenance alternates between housekeeping and steps, as long as housekeeping has more."""
    # This _prune_jobs deletes nothing, so that the old job stays and housekeeping never ends.
    await idle_db.run(
        """create or replace function picture_queue._prune_jobs(p_ids uuid[]) returns integer
        language sql set search_path = pg_catalog, pg_temp as $$ select 1 $$"""
    )
    await idle_db.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        values ($1, 't', 'completed', now() - interval '1 year')""",
        idle_db.queue,
    )
    await idle_db.pass_time(61, maintained=False)
    for _ in range(3):
        await idle_db.run(
            """insert into job_queue (queue, job_type, hold, scheduled_for)
            values ($1, 't', 'scheduled', picture_queue._now())""",
            idle_db.queue,
        )
        answer = await maintain(idle_db, "a")
        assert (answer["more"], answer["next_in"]) == (True, 0)
        assert "promoted" not in answer
        assert (await maintain(idle_db, "a"))["promoted"] == 1


# Steps that fail


async def failed_steps(db: Database, kind: str = "promote") -> list[dict[str, Any]]:
    return await db.rows(
        """select subject, failures, last_error, first_at,
          extract(epoch from retry_at - picture_queue._now())::float as seconds
        from picture_queue.failed_step where kind = $1""",
        kind,
    )


@pytest.fixture
async def failing_promotion(idle_db: Database) -> Database:
    """A database with a trigger that raises when a job of the type `bad` is promoted."""
    await idle_db.run(
        """create function public.trap() returns trigger language plpgsql as $$
        begin raise exception 'this job is bad' using detail = 'very bad'; end $$;
        create trigger trap before update on public.job_queue for each row
        when (new.job_type = 'bad' and old.hold = 'scheduled' and new.hold is null
          and new.status = 'pending')
        execute function public.trap()"""
    )
    return idle_db


async def test_a_failed_step_is_recorded_and_other_jobs_are_promoted(failing_promotion):
    db = failing_promotion
    await db.run(
        """insert into job_queue (queue, job_type, hold, scheduled_for)
        select $1, case when i in (7, 40) then 'bad' else 'good' end, 'scheduled', now()
        from generate_series(1, 60) i""",
        db.queue,
    )
    answer = await maintain(db, "a")
    assert (answer["promoted"], answer["failed"]) == (58, 2)
    left = await db.rows(
        "select id, job_type from job_queue where queue = $1 and hold is not null", db.queue
    )
    assert [row["job_type"] for row in left] == ["bad", "bad"]
    rows = await failed_steps(db)
    assert {row["subject"] for row in rows} == {str(row["id"]) for row in left}
    for row in rows:
        assert (row["failures"], row["last_error"]) == (1, "this job is bad: very bad")
        assert 1.9 < row["seconds"] <= 2


async def test_a_failing_step_is_retried_with_growing_delays(failing_promotion):
    db = failing_promotion
    job = await db.enqueue("bad", options={"delay_seconds": 1})
    await db.pass_time(1.5, maintained=False)
    waits = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]
    for n, wait in enumerate(waits, 1):
        assert (await maintain(db, "a", force=True))["promoted"] == 0
        (row,) = await failed_steps(db)
        assert (row["subject"], row["failures"]) == (str(job), n)
        assert wait - 0.5 < row["seconds"] <= wait
        await db.pass_time(wait - 0.6, maintained=False)
        await maintain(db, "a", force=True)
        assert (await failed_steps(db))[0]["failures"] == n, "no retry before retry_at"
        await db.pass_time(0.7, maintained=False)


async def test_a_failed_step_is_deleted_after_its_success(failing_promotion):
    db = failing_promotion
    job = await db.enqueue("bad", options={"delay_seconds": 1})
    await db.pass_time(1.5, maintained=False)
    await maintain(db, "a")
    assert len(await failed_steps(db)) == 1
    await db.run("drop trigger trap on public.job_queue")
    await maintain(db, "a")
    assert (await db.job(job))["hold"] == "scheduled", "no retry before retry_at"
    await db.pass_time(2.1, maintained=False)
    assert (await maintain(db, "a"))["promoted"] == 1
    assert (await db.job(job))["hold"] is None
    assert await failed_steps(db) == []


async def test_a_job_whose_promotion_failed_can_be_cancelled(failing_promotion):
    """The record of the failed step is then deleted."""
    db = failing_promotion
    job = await db.enqueue("bad", options={"delay_seconds": 1})
    other = await db.enqueue(options={"delay_seconds": 1})
    await db.pass_time(1.5)
    assert (await db.job(other))["hold"] is None
    assert (await db.value("select cancel_job($1)", job))["status"] == "cancelled"
    await db.pass_time(600, maintained=False)
    await maintain(db, "a", force=True)
    assert await failed_steps(db) == []


async def test_a_failed_sweep_does_not_affect_other_leases(idle_db):
    db = idle_db
    await db.run(
        """create function public.trap() returns trigger language plpgsql as $$
        begin raise exception 'not this one'; end $$;
        create trigger trap before update on public.job_queue for each row
        when (new.payload @> '{"bad": true}' and old.status = 'processing')
        execute function public.trap()"""
    )
    bad = await db.enqueue(payload={"bad": True})
    good = [await db.enqueue() for _ in range(5)]
    await db.claim(6, lease=5.0)
    await db.pass_time(6, maintained=False)
    assert (await maintain(db, "a"))["swept"] == 5
    assert (await db.job(bad))["status"] == "processing"
    assert {(await db.job(job))["status"] for job in good} == {"pending"}
    (row,) = await failed_steps(db, "sweep")
    assert row["subject"] == str(bad)


async def test_a_failed_callback_is_recorded_on_its_batch_and_others_are_enqueued(idle_db):
    db = idle_db
    job = {"job_type": "sql-resize", "queue": db.queue}
    batches = []
    for callback in ("bad", "good"):
        answer = await db.value(
            "select enqueue_batch($1, $2)",
            [job],
            {"job_type": callback, "queue": db.queue},
        )
        batches.append(answer["batch_id"])
    await db.run(
        """create function public.trap() returns trigger language plpgsql as $$
        begin raise exception 'no such callback'; end $$;
        create trigger trap before insert on public.job_queue for each row
        when (new.job_type = 'bad') execute function public.trap()"""
    )
    for claimed in await db.claim(2):
        assert (await db.report(claimed, "completed"))["outcome"] == "ok"
    await maintain(db, "a")
    bad, good = [await db.value("select get_batch($1)", uuid) for uuid in batches]
    assert (bad["completed"], bad["callback_error"]) == (1, "no such callback")
    assert good["callback_job_id"] is not None
    assert good["callback_error"] is None
