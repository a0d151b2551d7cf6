"""Regression tests for defects of the engine that adversarial tests found."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from . import internals
from .database import BAD_CHILD, QUEUE, TYPE, IsolationDatabase, RefusedCall, Session
from .disturbances import check_few_changed, make_parent

pytestmark = pytest.mark.timeout(120)

CLAIM = "select claim_jobs($1, $2, $3, 50, $4, $5::text::uuid)"


async def claim(
    session: Session, worker: str, lease: float = 30, request: str | None = None
) -> list[dict[str, Any]]:
    args = worker, [QUEUE], [TYPE], lease, request or str(uuid4())
    return await session.call(CLAIM, *args)


# Callbacks and policies --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback", [{"user_id": "x"}, {"generation_id": 7}, {"job_id": "x"}, {"scheduled_for": "x"}]
)
async def test_a_batch_with_an_invalid_callback_is_refused(db, callback):
    with pytest.raises(RefusedCall, match="PQ_INVALID_ARGUMENT"):
        await db.try_call(
            "select enqueue_batch($1, $2)",
            [{"job_type": TYPE, "queue": QUEUE}], {"job_type": "after", **callback},
        )  # fmt: skip


async def test_a_policy_with_a_bad_queue_name_is_refused(db):
    types = {TYPE: {"queue": internals.BAD_QUEUE_NAME}}
    with pytest.raises(RefusedCall, match="PQ_INVALID_ARGUMENT") as refused:
        await db.try_call("select register_worker('w', $1, $2)", [QUEUE], types)
    assert internals.BAD_QUEUE_NAME in refused.value.text


# Dependents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["report", "sweep", "cancel", "purge"])
async def test_a_call_resolves_a_few_dependents_and_maintenance_the_rest(db, ending):
    parent = await make_parent(3000)(db, {"max_attempts": 1})
    if ending in ("report", "sweep"):
        await db.claim("bad-job", lease=5)
        await db.pass_time(1 if ending == "report" else 6)
    match ending:
        case "report":
            assert await db.report([parent]) == ["ok"]
        case "sweep":
            await db.claim()
        case "cancel":
            await db.call("select cancel_job($1::text::uuid)", parent)
        case "purge":
            filter_ = {"job_type": "bad-job"}
            await db.call("select change_jobs('cancel', $1)", filter_)
    await check_few_changed(db)
    for _ in range(30):
        await db.maintain(1)
    left = await db.owner.fetchval(
        f"select count(*) from job_queue where job_type = '{BAD_CHILD}' and hold = 'waiting'"
    )
    assert left == 0


# Repeated claims ---------------------------------------------------------------------------------


@pytest.mark.parametrize("swept_by", ["claim", "maintenance"])
async def test_a_repeated_claim_does_not_take_a_job_back_from_another_worker(db, swept_by):
    """Worker b claims an expired job while worker a repeats the claim that returned the job."""
    job, request = await db.enqueue(TYPE, {}), str(uuid4())
    first, second = await db.session("first"), await db.session("second")
    assert [claimed["id"] for claimed in await claim(first, "a", 5, request)] == [job]
    await db.pass_time(6)
    await second.begin()
    if swept_by == "maintenance":
        await second.call("select maintain_jobs(force => true)")
    else:
        await second.call("select maintain_jobs()")  # The first call does the housekeeping.
        await second.call("select maintain_jobs()")
    (claimed,) = await claim(second, "b")
    repeating = db.start(claim(first, "a", 5, request))
    await db.wait_until_blocked_or_done(first, repeating)
    await second.commit()
    assert await repeating == []
    row = await db.call("select get_job($1::text::uuid)", job)
    assert (row["worker"], row["attempt"]) == ("b", 2)
    answer = await second.call(
        "select report_jobs($1)", [{**db.lease(claimed), "outcome": "completed"}]
    )
    assert answer["outcomes"][0]["outcome"] == "ok"


# Operators and open transactions -----------------------------------------------------------------


async def claim_and_add_child(db: IsolationDatabase, session: Session) -> None:
    """Leave open a transaction that adds a child to a running job."""
    parent = await db.enqueue(TYPE, {})
    await db.claim()
    await session.begin()
    options = {"depends_on": [parent]}
    await session.call(
        "select enqueue_job('child', queue => $1, options => $2)::text", QUEUE, options
    )


async def claim_in_transaction(db: IsolationDatabase, session: Session) -> None:
    await db.enqueue(TYPE, {})
    await session.begin()
    await session.call("select to_jsonb(j) from claim_next_job($1) j", QUEUE)


OPERATOR_CALLS = [
    f"set_limit('type:{TYPE}', 5)",
    "delete_limit('type:old')",
    f"pause_key('type:{TYPE}')",
    f"resume_key('type:{TYPE}')",
]


@pytest.mark.parametrize("sql", OPERATOR_CALLS)
@pytest.mark.parametrize("leave_open", [claim_and_add_child, claim_in_transaction])
async def test_no_claim_waits_behind_a_waiting_operator(db, leave_open, sql):
    await db.owner.fetchval("select set_limit('type:old', 5)")
    await leave_open(db, await db.session("open"))
    await db.enqueue("other", {})
    operator = await db.session("operator", statement_timeout="0")
    operating = db.start(operator.try_call(f"select {sql}"))
    await db.wait_until_blocked_or_done(operator, operating)
    claimed = await db.claim("other")
    assert len(claimed) == 1
    try:
        await asyncio.wait_for(operating, 8)
    except RefusedCall as refused:
        assert refused.code == "PQ_BUSY"
    except TimeoutError:
        pytest.fail("the call of the operator did not return")


async def test_a_claim_does_not_wait_for_a_pause_that_is_not_committed(db):
    await db.owner.fetchval("select set_limit($1, 5)", f"type:{TYPE}")
    await db.enqueue(TYPE, {})
    operator = await db.session("operator")
    await operator.begin()
    await operator.call(f"select pause_key('type:{TYPE}')")
    await db.claim(TYPE, "other")


# Limits ------------------------------------------------------------------------------------------


async def test_a_paused_queue_does_not_take_the_slots_of_a_shared_key(db):
    """Let 19 jobs of a paused queue and 3 of another wait for one key with one slot."""
    await db.owner.fetchval("select set_limit('k', 1), set_queue('paused')")
    options = {"options": {"limit_keys": ["k"]}}
    claim_all = "select claim_jobs('w', $1, $2, 50)", ["paused", QUEUE], [TYPE]
    running = await db.enqueue(TYPE, {"queue": "paused", **options})
    (job,) = await db.call(*claim_all)
    assert job["id"] == running
    for _ in range(19):
        await db.enqueue(TYPE, {"queue": "paused", "priority": 1, **options})
    expected = [await db.enqueue(TYPE, options) for _ in range(3)]
    assert await db.call(*claim_all) == []
    await db.call("select pause_queue('paused')")
    claimed = []
    while job:
        await db.call("select report_jobs($1)", [{**db.lease(job), "outcome": "completed"}])
        await db.maintain(1)
        job = next(iter(await db.call(*claim_all)), None)
        claimed += [job["id"]] if job else []
    assert claimed == expected


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("call", ["claim_jobs", "claim_next_job", "report_jobs", "complete_job"])
async def test_claims_and_reports_refuse_fixed_snapshots(db, call, level):
    """The session has the isolation level as its default."""
    await db.owner.fetchval("select set_limit($1, 1)", f"type:{TYPE}")
    job = await db.enqueue(TYPE, {})
    session = await db.session("strict", default_transaction_isolation=level)
    if call in ("report_jobs", "complete_job"):
        await db.claim()
    (lease,) = db.leases([job]) or [{}]
    sql, args = {
        "claim_jobs": (CLAIM, ("w", [QUEUE], [TYPE], 30.0, str(uuid4()))),
        "claim_next_job": ("select to_jsonb(j) from claim_next_job($1) j", (QUEUE,)),
        "report_jobs": ("select report_jobs($1)", ([{**lease, "outcome": "completed"}],)),
        "complete_job": (
            "select complete_job($1::text::uuid, lease_id => $2::text::uuid)",
            (job, lease.get("lease_id")),
        ),
    }[call]
    with pytest.raises(RefusedCall, match="PQ_INVALID_ARGUMENT") as refused:
        await session.try_call(sql, *args)
    assert level in refused.value.text.lower()


async def test_a_limit_is_exact_while_another_claim_is_not_committed(db):
    await db.owner.fetchval("select set_limit($1, 1)", f"type:{TYPE}")
    for _ in range(2):
        await db.enqueue(TYPE, {})
    first, second = await db.session("first"), await db.session("second")
    await first.begin()
    assert len(await claim(first, "a")) == 1
    claiming = db.start(claim(second, "b"))
    await db.wait_until_blocked_or_done(second, claiming)
    await first.commit()
    assert await claiming == []
    assert await claim(second, "b") == []


# Leases ------------------------------------------------------------------------------------------


async def test_a_worker_with_heartbeats_keeps_a_job_whose_row_is_locked(db):
    """Another transaction locks the row for longer than the lease."""
    job = await db.enqueue(TYPE, {})
    await db.claim(lease=6)
    holder = await db.open_transaction("select from job_queue where id::text = $1 for update", job)
    for _ in range(4):
        await db.pass_time(2)
        answer = await db.call("select heartbeat_jobs('ordinary-worker', $1)", db.leases([job]))
        assert answer["lost"] == []
    await holder.execute("commit")
    await db.maintain()
    assert await claim(await db.session("w2"), "w2") == []
    assert await db.report([job]) == ["ok"]


async def test_a_report_after_the_last_attempt_expired_is_stale(db):
    job = await db.enqueue(TYPE, {"max_attempts": 1})
    await db.claim(lease=5)
    await db.pass_time(6)
    await db.maintain()
    assert await db.states([job]) == ["failed"]
    assert await db.report([job]) == ["stale"]
    (lease,) = db.leases([job])
    with pytest.raises(RefusedCall, match="PQ_STALE_LEASE"):
        await db.try_call(
            "select complete_job($1::text::uuid, '{}', lease_id => $2::text::uuid)",
            job, lease["lease_id"],
        )  # fmt: skip


# States ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", ["retry_job", "change_jobs"])
async def test_a_retried_child_waits_for_the_parents_that_have_not_finished(db, retry):
    failing, other = [await db.enqueue(TYPE, {"max_attempts": 1}) for _ in range(2)]
    child = await db.enqueue("child", {"options": {"depends_on": [failing, other]}})
    await db.claim()
    await db.report([failing], "failed", error="boom")
    await db.maintain()
    assert await db.states([child]) == ["cancelled"]
    await db.call("select retry_job($1::text::uuid)", failing)
    if retry == "retry_job":
        await db.call("select retry_job($1::text::uuid)", child)
    else:
        await db.call(
            "select change_jobs('retry', $1)", {"job_ids": [child], "status": "cancelled"}
        )
    assert await db.claim("child") == []
    assert await db.states([child]) == ["waiting"]
    await db.report([other])
    assert [job["id"] for job in await db.claim()] == [failing]
    await db.maintain()
    assert await db.states([child]) == ["waiting"]
    await db.report([failing])
    await db.maintain()
    assert [job["id"] for job in await db.claim("child")] == [child]


async def test_a_job_parked_without_a_delay_is_not_due_at_once(db):
    job = await db.enqueue(TYPE, {})
    await db.claim()
    assert await db.report([job], "parked") == ["ok"]
    for _ in range(5):
        await db.maintain(1)
        assert await db.claim() == []
        await db.pass_time(1)
    assert await db.states([job]) == ["parked"]
    await db.call("select send_event($1)", job)
    await db.maintain(1)
    assert [claimed["id"] for claimed in await db.claim()] == [job]


async def test_an_expiry_keeps_the_error_of_a_job_that_has_started(db):
    job = await db.enqueue(TYPE, {"options": {"expires_in_seconds": 10}})
    await db.claim()
    await db.report([job], "failed", error="boom", delay_seconds=30)
    await db.pass_time(15)
    await db.maintain()
    assert (await db.call("select get_job($1::text::uuid)", job))["error"] == "boom"


# Time --------------------------------------------------------------------------------------------


async def run_idle_worker(db: IsolationDatabase) -> float:
    """Make the calls of an idle worker; return the seconds until its next calls."""
    await db.claim("nothing")
    answer = await db.call("select maintain_jobs()")
    return max(0.02, min(answer.get("next_in", 0.9), 0.9))


async def test_a_schedule_of_every_second_has_all_its_ticks(db):
    job = {"job_type": TYPE, "queue": QUEUE, "every_seconds": 1}
    await db.call("select set_schedule('each-second', $1)", job)
    end = db.now + timedelta(seconds=24.5)
    while db.now < end:
        await db.pass_time(await run_idle_worker(db))
    assert len(await db.claim()) in (24, 25)


async def test_a_delayed_job_is_claimable_on_time(db):
    job = await db.enqueue(TYPE, {"options": {"delay_seconds": 5}})
    due = db.now + timedelta(seconds=5)
    pause = await run_idle_worker(db)
    while await db.states([job]) == ["scheduled"]:
        await db.pass_time(pause)
        pause = await run_idle_worker(db)
    assert db.now - due <= timedelta(seconds=0.25)


# Held snapshots ----------------------------------------------------------------------------------


async def count_pages(db: IsolationDatabase, sql: str, *args: Any) -> int:
    """Return the number of pages that a call reads."""
    plan = await db.owner.fetchval(f"explain (analyze, buffers, format json) {sql}", *args)
    top_node = json.loads(plan)[0]["Plan"]
    return top_node["Shared Hit Blocks"] + top_node["Shared Read Blocks"]


async def count_report_pages(db: IsolationDatabase) -> int:
    job = await db.enqueue(TYPE, {})
    await db.claim()
    items = [{**lease, "outcome": "completed"} for lease in db.leases([job])]
    return await count_pages(db, "select report_jobs($1)", items)


async def count_enqueue_pages(db: IsolationDatabase) -> int:
    return await count_pages(db, f"select enqueue_job('{TYPE}', queue => '{QUEUE}')")


async def count_claim_pages(db: IsolationDatabase) -> int:
    await db.enqueue(TYPE, {})
    return await count_pages(db, "select claim_jobs('w', $1, $2, 1)", [QUEUE], [TYPE])


@pytest.mark.parametrize(
    "count_call_pages", [count_report_pages, count_enqueue_pages, count_claim_pages]
)
@pytest.mark.parametrize(
    ("leave_dead", "count"),
    # Each update of a row reads its dead versions, so 20,000 updates would take minutes.
    [(internals.leave_dead_dependencies, 20_000), (internals.leave_dead_workers, 5_000)],
)
async def test_dead_rows_kept_by_a_held_snapshot_are_not_read(
    db, leave_dead, count, count_call_pages
):
    """Check that dead rows of dependencies or workers do not make a call read more pages."""
    await db.enqueue(TYPE, {})
    await db.claim()
    for _ in range(3):
        before = await count_call_pages(db)
    await db.open_transaction("select 1 from job_queue")
    await leave_dead(db.owner, count)
    for _ in range(3):
        after = await count_call_pages(db)
    assert after <= before * 1.5 + 30, f"{before} pages, then {after}"


# Claims whose jobs never start --------------------------------------------------------------------

CLAIM_UNCONFIRMED = "select claim_jobs('w', $1, $2, 4, 10, confirms_start => true)"


async def lose_claim(db):
    """Claim jobs, do not confirm their start, and let their leases expire."""
    jobs = await db.call(CLAIM_UNCONFIRMED, [QUEUE], [TYPE])
    await db.pass_time(11)
    await db.maintain()
    return jobs


async def get_job(db, job):
    return await db.call("select get_job($1::text::uuid)", job)


@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_a_job_that_never_started_loses_no_attempt(db, max_attempts):
    job = await db.enqueue(TYPE, {"max_attempts": max_attempts})
    assert len(await lose_claim(db)) == 1
    row = await get_job(db, job)
    assert (row["status"], row["attempt"]) == ("pending", 0)


@pytest.mark.parametrize(
    "confirm",
    [
        "select heartbeat_jobs('w', jsonb_build_array(jsonb_build_object("
        "'job_id', $1::text, 'lease_id', $2::text)))",
        "select report_progress($1::text::uuid, $2::text::uuid, 50)",
    ],
)
async def test_a_job_whose_start_was_confirmed_loses_its_attempt(db, confirm):
    job = await db.enqueue(TYPE, {})
    (claimed,) = await db.call(CLAIM_UNCONFIRMED, [QUEUE], [TYPE])
    await db.call(confirm, job, claimed["lease_id"])
    await db.pass_time(21)
    await db.maintain()
    assert (await get_job(db, job))["attempt"] == 1


async def test_a_start_confirmed_while_the_row_is_locked_counts(db):
    job = await db.enqueue(TYPE, {})
    (claimed,) = await db.call(CLAIM_UNCONFIRMED, [QUEUE], [TYPE])
    holder = await db.open_transaction("select from job_queue for update")
    await db.call(
        "select heartbeat_jobs('w', jsonb_build_array(jsonb_build_object("
        "'job_id', $1::text, 'lease_id', $2::text)))",
        job, claimed["lease_id"],
    )  # fmt: skip
    await holder.execute("rollback")
    await db.pass_time(21)
    await db.maintain()
    assert (await get_job(db, job))["attempt"] == 1


async def test_a_claim_without_start_confirmation_uses_up_an_attempt(db):
    job = await db.enqueue(TYPE, {})
    await db.claim()
    await db.pass_time(3600)
    await db.maintain()
    assert (await get_job(db, job))["attempt"] == 1


async def test_the_claim_of_a_last_attempt_or_a_lost_job_demands_a_confirmation(db):
    await db.enqueue(TYPE, {"max_attempts": 1})
    await db.enqueue(TYPE, {"max_attempts": 3})
    confirmations = [
        [job.get("confirm_start", False) for job in await lose_claim(db)] for _ in range(2)
    ]
    assert confirmations == [[True, False], [True, True]]


async def test_a_job_that_kills_every_worker_before_its_confirmation_fails(db):
    job = await db.enqueue(TYPE, {"max_attempts": 1})
    for _ in range(20):
        await lose_claim(db)
        assert (await get_job(db, job))["status"] == "pending"
    await lose_claim(db)
    assert (await get_job(db, job))["status"] == "failed"


# Maintenance -------------------------------------------------------------------------------------


async def test_only_one_worker_gets_the_lease_of_maintenance(db):
    sql = "select maintain_jobs(worker => $1)"
    answers = [await db.call(sql, worker) for worker in ("a", "b", "a")]
    assert [answer["leased"] for answer in answers] == [True, False, True]
    assert all(answer["next_in"] >= 0 for answer in answers)


async def test_a_failed_step_is_recorded_and_retried(db):
    parent = await make_parent(1)(db, {})
    await db.owner.execute(
        f"""create function refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on job_queue for each row
        when (old.job_type = '{BAD_CHILD}') execute function refuse()"""
    )
    await db.claim("bad-job")
    assert await db.report([parent]) == ["ok"]
    await db.maintain()
    (step,) = await internals.failed_steps(db.owner)
    assert "not now" in step["last_error"] and step["failures"] >= 1
    assert step["kind"] and step["subject"] and step["retry_at"] > db.now
    await db.expect_reason("not now")
    await db.owner.execute("drop trigger refuse on job_queue")
    await db.pass_time(3600)
    await db.maintain()
    assert len(await db.claim(BAD_CHILD)) == 1
    assert await internals.failed_steps(db.owner) == []


async def test_claim_next_job_runs_overdue_maintenance(db):
    job = await db.enqueue(TYPE, {})
    await db.claim(lease=5)
    await db.maintain(1)
    await db.pass_time(60)
    claimed = await db.call("select to_jsonb(j) from claim_next_job($1) j", QUEUE)
    assert claimed["id"] == job
