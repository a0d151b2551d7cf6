"""Events: rows of realtime.messages, written in the transaction of the change."""

from uuid import UUID, uuid4

import pytest


async def test_each_change_of_state_sends_an_event_to_the_topic_of_the_job(db):
    job_id = await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "completed", result={"secret": "never in an event"})
    events = await db.events(f"pq:job:{job_id}")
    assert [event["status"] for event in events] == ["pending", "processing", "completed"]
    versions = [event["version"] for event in events]
    assert versions == sorted(set(versions))
    last = events[-1]
    row = await db.job(job_id)
    assert last["version"] == row["version"]
    assert last.keys() == {
        "job_id", "job_type", "queue", "status", "hold", "progress", "message", "attempt",
        "version", "at",
    }  # fmt: skip


async def test_events_of_an_owned_job_go_only_to_its_owner(db):
    user = uuid4()
    job_id = await db.enqueue(user_id=user)
    assert [event["job_id"] for event in await db.events(f"pq:user:{user}")] == [str(job_id)]
    assert await db.events(f"pq:job:{job_id}") == []


async def test_an_event_contains_the_error_but_not_its_detail(db):
    await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, "failed", error="the picture is missing", detail="Traceback: secrets")
    last = (await db.events(f"pq:job:{job['id']}"))[-1]
    assert last["error"] == "the picture is missing"
    assert "secrets" not in str(last)


async def test_progress_events_are_throttled_except_for_0_and_100(db):
    await db.enqueue()
    (job,) = await db.claim()
    for progress in (0, 1, 2, 3, 100, 100):
        await db.value(
            "select report_progress($1, $2, $3)", UUID(job["id"]), UUID(job["lease_id"]), progress
        )
    await db.pass_time(0.6)
    await db.value("select report_progress($1, $2, 50)", UUID(job["id"]), UUID(job["lease_id"]))
    events = await db.events(f"pq:job:{job['id']}")
    # The first two events are those of the enqueue and the claim.
    assert [event["progress"] for event in events[2:]] == [0, 100, 100, 50]
    assert (await db.job(job["id"]))["progress"] == 50


@pytest.mark.parametrize(("level", "expected"), [("none", 0), ("status", 3), ("progress", 4)])
async def test_the_queue_decides_which_events_are_sent(db, level, expected):
    await db.run("insert into picture_queue.queue (name, events) values ($1, $2)", db.queue, level)
    job_id = await db.enqueue()
    (job,) = await db.claim()
    await db.value("select report_progress($1, $2, 50)", UUID(job["id"]), UUID(job["lease_id"]))
    await db.report(job, "completed")
    assert len(await db.events(f"pq:job:{job_id}")) == expected


async def test_a_bulk_enqueue_sends_no_event_for_each_job(db):
    user = uuid4()
    jobs = [{"job_type": "a", "queue": db.queue, "user_id": str(user)} for _ in range(3)]
    await db.value("select enqueue_jobs($1)", jobs)
    assert await db.events(f"pq:user:{user}") == []


async def test_an_idle_worker_is_woken_once_per_statement_and_a_busy_one_never(db):
    topic = f"pq:queue:{db.queue}"
    await db.enqueue()
    assert await db.events(topic) == []
    # The worker got as many jobs as it asked for, so it is busy.
    assert len(await db.claim(1)) == 1
    await db.enqueue()
    assert await db.events(topic) == []
    # The worker got fewer jobs than it asked for, so it is idle.
    assert len(await db.claim(5)) == 1
    await db.value(
        "select enqueue_jobs($1)", [{"job_type": "sql-resize", "queue": db.queue} for _ in range(5)]
    )
    assert await db.events(topic) == [{"queue": db.queue, "reason": "enqueue"}]


async def test_a_cancel_of_a_running_job_wakes_its_worker(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.value("select cancel_job($1)", UUID(job["id"]))
    assert (await db.events(f"pq:queue:{db.queue}"))[-1]["reason"] == "cancel"


async def test_a_change_is_committed_even_if_its_event_cannot_be_sent(db):
    await db.run(
        """create function pg_temp.refuse() returns trigger language plpgsql
        as $$ begin raise exception 'no partition of relation "messages" found for row'; end $$"""
    )
    # The trigger raises what Postgres raises in an idle hosted project, where realtime.messages has
    # no partition for the current day.
    await db.run("set local role supabase_realtime_admin")
    await db.run(
        "create trigger refuse before insert on realtime.messages "
        "for each row execute function pg_temp.refuse()"
    )
    await db.run("reset role")
    job_id = await db.enqueue()
    assert (await db.job(job_id))["status"] == "pending"


async def test_a_rolled_back_change_sends_no_event(db):
    transaction = db.connection.transaction()
    await transaction.start()
    job_id = await db.enqueue()
    assert len(await db.events(f"pq:job:{job_id}")) == 1
    await transaction.rollback()
    assert await db.events(f"pq:job:{job_id}") == []
