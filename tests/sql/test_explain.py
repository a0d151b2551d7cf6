"""explain_jobs: each reason why a job does not run, their order, and their visibility."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.sql.conftest import transaction

USER, OTHER = uuid4(), uuid4()


@pytest.fixture
async def db(own_database):
    """A database in which maintenance just ran, with a worker for sql-resize jobs."""
    async with transaction(own_database) as database:
        await database.value(
            "select register_worker('w1', $1, '{\"sql-resize\": {}}')", [database.queue]
        )
        await set_maintenance_age(database)
        yield database


async def set_maintenance_age(db, seconds_ago=0.0):
    await db.run(
        "update picture_queue.maintenance set round_began_at = picture_queue._now() - $1::interval",
        timedelta(seconds=seconds_ago),
    )


async def explain(db, *jobs):
    return await db.value("select explain_jobs($1)", list(jobs))


async def explain_one(db, job):
    (answer,) = await explain(db, UUID(str(job)))
    return answer


def reasons(answer):
    return [answer["reason"], *(r["reason"] for r in answer.get("reasons", [])[1:])]


def parse_time(text):
    return datetime.fromisoformat(text)


async def set_limit(db, key, *args):
    """Set a limit; the arguments after the key are SQL expressions."""
    await db.value(
        f"select set_limit($1{''.join(f', {a}' for a in args)})",
        key,
    )


@pytest.mark.parametrize(
    ("outcome", "detail"),
    [
        ("completed", "It has completed."),
        ("failed", "It has failed."),
        ("cancelled", "It was cancelled."),
    ],
)
async def test_a_finished_job_is_explained_as_finished(db, outcome, detail):
    job = await db.enqueue(max_attempts=1)
    (claimed,) = await db.claim()
    await db.report(claimed, outcome)
    assert await explain_one(db, job) == {
        "job_id": str(job), "status": outcome, "hold": None,
        "reason": "finished", "detail": detail, "until": None,
    }  # fmt: skip


async def test_a_job_that_can_be_claimed_waits_for_a_worker(db):
    answer = await explain_one(db, await db.enqueue())
    assert reasons(answer) == ["waiting_for_worker"]
    assert "reasons" not in answer


async def test_a_running_job_names_its_worker(db):
    job = await db.enqueue()
    await db.claim(worker="w7")
    answer = await explain_one(db, job)
    assert (reasons(answer), answer["worker"]) == (["running"], "w7")


async def test_the_answer_for_a_job_without_a_worker_names_queue_and_type(db):
    answer = await explain_one(db, await db.enqueue("sql-other"))
    assert reasons(answer) == ["no_worker"]
    assert (answer["queue"], answer["job_type"]) == (db.queue, "sql-other")


async def test_a_worker_without_a_heartbeat_for_a_minute_does_not_count(db):
    job = await db.enqueue()
    await db.pass_time(61)
    await set_maintenance_age(db)
    assert reasons(await explain_one(db, job)) == ["no_worker"]


async def test_a_worker_of_another_queue_does_not_count(db):
    await db.value("select register_worker('w0', '{elsewhere}', '{\"sql-other\": {}}')")
    assert reasons(await explain_one(db, await db.enqueue("sql-other"))) == ["no_worker"]
    await db.value("select register_worker('w2', $1, '{\"sql-other\": {}}')", [db.queue])
    assert reasons(await explain_one(db, await db.enqueue("sql-other"))) == ["waiting_for_worker"]


async def test_the_answer_for_a_paused_queue_has_the_end_and_reason_of_the_pause(db):
    job = await db.enqueue()
    until = datetime.now(UTC) + timedelta(hours=1)
    await db.value("select pause_queue($1, $2, 'disk full')", db.queue, until)
    answer = await explain_one(db, job)
    assert (reasons(answer), answer["pause_reason"]) == (["queue_paused"], "disk full")
    assert parse_time(answer["until"]) == until
    await db.value("select pause_queue($1)", db.queue)
    assert (await explain_one(db, job))["until"] is None, "until it is resumed"


async def test_a_draining_queue_is_not_a_reason(db):
    job = await db.enqueue()
    await db.value("select drain_queue($1)", db.queue)
    assert reasons(await explain_one(db, job)) == ["waiting_for_worker"]


async def test_a_blocked_job_names_its_limit_and_the_running_jobs(db):
    await set_limit(db, "model:flux", 1)
    for _ in range(2):
        await db.enqueue(options={"limit_keys": ["model:flux"]})
    blocked = await db.enqueue(options={"limit_keys": ["model:flux"]})
    await db.claim(3)
    assert (await db.job(blocked))["hold"] == "blocked"
    answer = await explain_one(db, blocked)
    assert reasons(answer) == ["limit"]
    assert (answer["key"], answer["max_running"], answer["running"]) == ("model:flux", 1, 1)
    assert answer["detail"] == "Limit key model:flux is full: 1 of 1 jobs run."


async def test_a_full_limit_is_reported_before_the_job_is_blocked(db):
    await set_limit(db, f"queue:{db.queue}", 1)
    await db.enqueue()
    job = await db.enqueue()
    (running,) = await db.claim()
    assert (await db.job(job))["hold"] is None
    assert reasons(await explain_one(db, job)) == ["limit"]
    await db.report(running, "completed")
    assert reasons(await explain_one(db, job)) == ["waiting_for_worker"]


async def test_a_used_up_rate_has_the_time_of_the_next_start(db):
    await set_limit(db, f"queue:{db.queue}", "null", 2, 60)
    for _ in range(2):
        await db.enqueue()
    job = await db.enqueue()
    await db.claim(2)
    answer = await explain_one(db, job)
    assert (reasons(answer), answer["rate"], answer["period_seconds"]) == (["limit"], 2, 60)
    assert 50 < (parse_time(answer["until"]) - datetime.now(UTC)).total_seconds() <= 60


async def test_a_limit_whose_jobs_are_not_counted_yet_is_full(db):
    await db.enqueue()
    job = await db.enqueue()
    await db.claim()
    await set_limit(db, f"queue:{db.queue}", 5)
    assert reasons(await explain_one(db, job)) == ["limit"]


@pytest.mark.parametrize("claimed", [False, True])
async def test_the_answer_for_a_paused_key_has_the_end_of_the_pause(db, claimed):
    job = await db.enqueue(options={"limit_keys": ["model:flux"]})
    until = datetime.now(UTC) + timedelta(minutes=5)
    await db.value("select pause_key('model:flux', $1)", until)
    if claimed:
        assert await db.claim() == []
    answer = await explain_one(db, job)
    assert (reasons(answer), answer["key"]) == (["key_paused"], "model:flux")
    assert parse_time(answer["until"]) == until
    assert answer["hold"] == ("blocked" if claimed else None)


async def test_a_scheduled_job_has_its_time(db):
    at = datetime.now(UTC) + timedelta(hours=1)
    answer = await explain_one(db, await db.enqueue(scheduled_for=at))
    assert reasons(answer) == ["scheduled"]
    assert parse_time(answer["until"]) == at


async def test_a_retry_has_the_last_error(db):
    job = await db.enqueue()
    (claimed,) = await db.claim()
    await db.report(claimed, "failed", error="no such file", delay_seconds=60)
    answer = await explain_one(db, job)
    assert (reasons(answer), answer["error"]) == (["retry"], "no such file")
    assert answer["detail"] == "Attempt 1 of 3 failed; the next one is scheduled."
    assert parse_time(answer["until"]) > datetime.now(UTC)


async def test_a_snooze_after_a_failure_is_not_explained_as_a_retry(db):
    job = await db.enqueue()
    (claimed,) = await db.claim()
    await db.report(claimed, "failed", error="no such file", delay_seconds=1)
    await db.pass_time(2)
    await set_maintenance_age(db)
    (claimed,) = await db.claim()
    await db.report(claimed, "snoozed", delay_seconds=60)
    answer = await explain_one(db, job)
    assert reasons(answer) == ["scheduled"]
    assert "error" not in answer


async def test_a_due_job_waits_for_maintenance(db):
    job = await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(seconds=5))
    await db.pass_time(6, maintained=False)
    await set_maintenance_age(db)
    answer = await explain_one(db, job)
    assert reasons(answer) == ["scheduled"]
    assert answer["detail"] == "It is due and becomes claimable in a moment."
    await set_maintenance_age(db, 20)
    answer = await explain_one(db, job)
    assert reasons(answer) == ["no_maintenance"]
    assert "for 20 seconds" in answer["detail"]


async def test_a_child_names_ten_of_its_parents(db):
    parents = [await db.enqueue() for _ in range(12)]
    child = await db.enqueue(options={"depends_on": [str(p) for p in parents]})
    answer = await explain_one(db, child)
    assert (reasons(answer), answer["parent_count"]) == (["parents"], 12)
    assert len(answer["parents"]) == 10
    assert set(answer["parents"]) <= {str(p) for p in parents}
    for claimed in await db.claim(11):
        await db.report(claimed, "completed")
    answer = await explain_one(db, child)
    assert (answer["parents"], answer["parent_count"]) == ([str(parents[-1])], 1)
    assert answer["detail"] == "A job that it depends on has not finished."


async def test_many_parents_are_counted_up_to_100(db):
    parents = await db.value(
        "select enqueue_jobs($1)", [{"job_type": "sql-resize", "queue": db.queue}] * 150
    )
    child = await db.enqueue(options={"depends_on": [p["job_id"] for p in parents]})
    answer = await explain_one(db, child)
    assert (answer["parent_count"], len(answer["parents"])) == (100, 10)
    assert answer["detail"].startswith("100 or more jobs")


async def test_a_parked_job_names_its_event(db):
    job = await db.enqueue()
    (claimed,) = await db.claim()
    await db.report(claimed, "parked", event="paid:7", delay_seconds=60)
    answer = await explain_one(db, job)
    assert (reasons(answer), answer["event"], answer["hold"]) == (["event"], "paid:7", "parked")
    assert parse_time(answer["until"]) > datetime.now(UTC)


async def test_an_expired_lease_that_was_not_swept_is_reported(db):
    job = await db.enqueue()
    (claimed,) = await db.claim(worker="w7")
    await db.pass_time(31, maintained=False)
    answer = await explain_one(db, job)
    assert reasons(answer) == ["lease_expired", "no_maintenance"]
    assert answer["worker"] == "w7"
    await db.run(
        """insert into picture_queue.lease_extension
        values ($1, $2, picture_queue._now() + interval '1 minute')""",
        job,
        UUID(claimed["lease_id"]),
    )
    assert reasons(await explain_one(db, job)) == ["running"], (
        "its lease was extended in lease_extension"
    )


@pytest.mark.parametrize(
    ("kind", "state"),
    [("claim", "pending"), ("promote", "scheduled"), ("resolve", "waiting"), ("wake", "parked")],
)
async def test_a_failed_step_is_the_first_reason(db, kind, state):
    job = await db.enqueue()
    if state == "scheduled":
        job = await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(hours=1))
    elif state == "waiting":
        job = await db.enqueue(options={"depends_on": [str(job)]})
    elif state == "parked":
        (claimed,) = await db.claim()
        await db.report(claimed, "parked")
    await db.value(
        "select picture_queue._record_failure($1, $2, 'a trigger says no')", kind, str(job)
    )
    answer = await explain_one(db, job)
    assert (answer["reason"], answer["step"]) == ("step_failed", kind)
    assert (answer["error"], answer["until"] is None) == ("a trigger says no", False)


async def test_reasons_are_in_the_order_in_which_they_apply(db):
    at = datetime.now(UTC) + timedelta(hours=1)
    job = await db.enqueue("sql-other", scheduled_for=at, options={"limit_keys": ["model:flux"]})
    await db.value("select pause_key('model:flux')")
    await db.value("select pause_queue($1)", db.queue)
    answer = await explain_one(db, job)
    assert reasons(answer) == ["scheduled", "queue_paused", "no_worker", "key_paused"]
    assert answer["reasons"][3]["key"] == "model:flux"
    assert parse_time(answer["until"]) == at


async def test_the_answers_are_in_the_order_of_the_ids(db):
    one, two = await db.enqueue(), await db.enqueue("sql-other")
    unknown = uuid4()
    answers = await explain(db, two, unknown, one, None, two)
    assert [a["job_id"] for a in answers] == [str(two), str(unknown), str(one), None, str(two)]
    assert [a["reason"] for a in answers] == [
        "no_worker", "unknown", "waiting_for_worker", "unknown", "no_worker"
    ]  # fmt: skip
    assert answers[1] == {
        "job_id": str(unknown), "status": None, "hold": None,
        "reason": "unknown", "detail": "There is no such job.", "until": None,
    }  # fmt: skip
    assert await explain(db) == []


async def test_a_call_accepts_at_most_1000_ids(db):
    job = await db.enqueue()
    assert len(await explain(db, *[job] * 1000)) == 1000
    error = await db.refusal("select explain_jobs($1)", [job] * 1001)
    assert error.message.startswith("PQ_INVALID_ARGUMENT")
    assert error.detail == "job_ids has 1001 entries"
    error = await db.refusal("select explain_jobs(null)")
    assert error.detail == "job_ids is null"


async def test_a_user_sees_only_their_own_jobs(db):
    foreign, own_parent = await db.enqueue(user_id=OTHER), await db.enqueue(user_id=USER)
    ownerless = await db.enqueue()
    await db.act_as("authenticated", USER)
    answers = await explain(db, foreign, own_parent, ownerless)
    assert [a["reason"] for a in answers] == ["unknown", "waiting_for_worker", "unknown"]


async def test_a_token_without_a_user_sees_no_job(db):
    job = await db.enqueue()
    await db.act_as("authenticated")
    assert reasons(await explain_one(db, job)) == ["unknown"]


async def test_anon_may_not_call_explain_jobs(db):
    await db.act_as("anon")
    error = await db.refusal("select explain_jobs('{}')")
    assert isinstance(error, asyncpg.InsufficientPrivilegeError)


async def test_a_user_sees_no_workers_errors_or_other_users(db):
    secret = "SECRET"
    await set_limit(db, "model:flux", 1)
    await set_limit(db, "user:*", 1)
    keys = {"limit_keys": ["model:flux"]}
    first = await db.enqueue(options=keys, user_id=OTHER)
    limited = await db.enqueue(options=keys, user_id=USER)
    await db.claim(2, worker=secret)
    running = await db.enqueue(user_id=USER)
    own = await db.enqueue(user_id=USER)
    await db.claim(1, worker=secret)
    parent = await db.enqueue("sql-parent", user_id=OTHER)
    own_parent = await db.enqueue("sql-parent", user_id=USER)
    child = await db.enqueue(user_id=USER, options={"depends_on": [str(parent), str(own_parent)]})
    await db.value("select picture_queue._record_failure('resolve', $1, $2)", str(child), secret)
    await db.value("select pause_queue($1, reason => $2)", db.queue, secret)
    await db.act_as("authenticated", USER)
    answers = dict(
        zip(
            ("first", "limited", "running", "own", "child"),
            await explain(db, first, limited, running, own, child),
            strict=True,
        )
    )
    assert secret not in str(answers)
    assert answers["first"]["reason"] == "unknown"
    assert answers["limited"]["reason"] == "limit"
    assert answers["limited"]["key"] == "model:flux"
    assert answers["limited"]["detail"] == "Limit key model:flux is full."
    assert answers["limited"].keys() & {"max_running", "running"} == set()
    limit = next(r for r in answers["own"]["reasons"] if r["reason"] == "limit")
    assert (limit["key"], limit["max_running"], limit["running"]) == (f"user:{USER}", 1, 1)
    parents = next(r for r in answers["child"]["reasons"] if r["reason"] == "parents")
    assert (parents["parents"], parents["parent_count"]) == ([str(own_parent)], 2)


async def test_explaining_reads_only_indexes(db):
    """Explain 1,000 of 21,000 jobs, without sequential scans of any table."""
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        select $1, 'sql-many', 'completed', now() from generate_series(1, 20000)""",
        db.queue,
    )
    created = await db.value(
        "select enqueue_jobs($1)", [{"job_type": "sql-resize", "queue": db.queue}] * 1000
    )
    read = """
      select sum(pg_stat_get_xact_tuples_returned(t::regclass))
      from unnest(array['public.job_queue', 'picture_queue.history', 'picture_queue.dependency',
        'picture_queue.failed_step']) t"""
    before = await db.value(read)
    answers = await explain(db, *[UUID(item["job_id"]) for item in created])
    assert {a["reason"] for a in answers} == {"waiting_for_worker"}
    assert await db.value(read) == before, "this statistic counts only rows of sequential scans"
    await db.value("select count(payload) from job_queue")
    assert await db.value(read) > before, "the measurement works"
