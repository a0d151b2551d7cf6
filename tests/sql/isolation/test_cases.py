"""Regression tests for defects of the engine that adversarial tests found."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from . import internals
from .kinds import check_few_changed, make_parent
from .world import BAD_CHILD, QUEUE, TYPE, Refused, Session, World

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
async def test_a_batch_with_an_invalid_callback_is_refused(world, callback):
    with pytest.raises(Refused, match="PQ_INVALID_ARGUMENT"):
        await world.try_call(
            "select enqueue_batch($1, $2)",
            [{"job_type": TYPE, "queue": QUEUE}], {"job_type": "after", **callback},
        )  # fmt: skip


async def test_a_policy_with_a_bad_queue_name_is_refused(world):
    types = {TYPE: {"queue": internals.BAD_QUEUE_NAME}}
    with pytest.raises(Refused, match="PQ_INVALID_ARGUMENT") as refused:
        await world.try_call("select register_worker('w', $1, $2)", [QUEUE], types)
    assert internals.BAD_QUEUE_NAME in refused.value.text


# Dependents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["report", "sweep", "cancel", "purge"])
async def test_a_call_resolves_a_few_dependents_and_maintenance_the_rest(world, ending):
    """Check that one call changes a bounded number of dependents."""
    parent = await make_parent(3000)(world, {"max_attempts": 1})
    if ending in ("report", "sweep"):
        await world.claim("bad-job", lease=5)
        await world.pass_time(1 if ending == "report" else 6)
    match ending:
        case "report":
            assert await world.report([parent]) == ["ok"]
        case "sweep":
            await world.claim()
        case "cancel":
            await world.call("select cancel_job($1::text::uuid)", parent)
        case "purge":
            filter_ = {"job_type": "bad-job"}
            await world.call("select change_jobs('cancel', $1)", filter_)
    await check_few_changed(world)
    for _ in range(30):
        await world.maintain(1)
    left = await world.owner.fetchval(
        f"select count(*) from job_queue where job_type = '{BAD_CHILD}' and hold = 'waiting'"
    )
    assert left == 0


# Repeated claims ---------------------------------------------------------------------------------


@pytest.mark.parametrize("swept_by", ["claim", "maintenance"])
async def test_a_repeated_claim_does_not_take_a_job_back_from_another_worker(world, swept_by):
    """Worker b claims an expired job while worker a repeats the claim that returned the job."""
    job, request = await world.enqueue(TYPE, {}), str(uuid4())
    a, b = await world.session("a"), await world.session("b")
    assert [claimed["id"] for claimed in await claim(a, "a", 5, request)] == [job]
    await world.pass_time(6)
    await b.begin()
    if swept_by == "maintenance":
        await b.call("select maintain_jobs(force => true)")
    else:
        await b.call("select maintain_jobs()")  # The first call does the housekeeping.
        await b.call("select maintain_jobs()")
    (claimed,) = await claim(b, "b")
    repeating = world.start(claim(a, "a", 5, request))
    await world.wait_until_blocked_or_done(a, repeating)
    await b.commit()
    assert await repeating == []
    row = await world.call("select get_job($1::text::uuid)", job)
    assert (row["worker"], row["attempt"]) == ("b", 2)
    answer = await b.call(
        "select report_jobs($1)", [{**world.lease(claimed), "outcome": "completed"}]
    )
    assert answer["outcomes"][0]["outcome"] == "ok"


# Operators and open transactions -----------------------------------------------------------------


async def claim_and_add_child(world: World, session: Session) -> None:
    """Leave open a transaction that adds a child to a running job."""
    parent = await world.enqueue(TYPE, {})
    await world.claim()
    await session.begin()
    options = {"depends_on": [parent]}
    await session.call(
        "select enqueue_job('child', queue => $1, options => $2)::text", QUEUE, options
    )


async def claim_in_transaction(world: World, session: Session) -> None:
    await world.enqueue(TYPE, {})
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
async def test_no_claim_waits_behind_a_waiting_operator(world, leave_open, sql):
    await world.owner.fetchval("select set_limit('type:old', 5)")
    await leave_open(world, await world.session("open"))
    await world.enqueue("other", {})
    operator = await world.session("operator", statement_timeout="0")
    operating = world.start(operator.try_call(f"select {sql}"))
    await world.wait_until_blocked_or_done(operator, operating)
    claimed = await world.claim("other")
    assert len(claimed) == 1
    try:
        await asyncio.wait_for(operating, 8)
    except Refused as refused:
        assert refused.code == "PQ_BUSY"
    except TimeoutError:
        pytest.fail("the call of the operator did not return")


async def test_a_claim_does_not_wait_for_a_pause_that_is_not_committed(world):
    await world.owner.fetchval("select set_limit($1, 5)", f"type:{TYPE}")
    await world.enqueue(TYPE, {})
    operator = await world.session("operator")
    await operator.begin()
    await operator.call(f"select pause_key('type:{TYPE}')")
    await world.claim(TYPE, "other")


# Limits ------------------------------------------------------------------------------------------


async def test_a_paused_queue_does_not_take_the_slots_of_a_shared_key(world):
    """Let 19 jobs of a paused queue and 3 of another wait for one key with one slot."""
    await world.owner.fetchval("select set_limit('k', 1), set_queue('paused')")
    options = {"options": {"limit_keys": ["k"]}}
    claim_all = "select claim_jobs('w', $1, $2, 50)", ["paused", QUEUE], [TYPE]
    running = await world.enqueue(TYPE, {"queue": "paused", **options})
    (job,) = await world.call(*claim_all)
    assert job["id"] == running
    for _ in range(19):
        await world.enqueue(TYPE, {"queue": "paused", "priority": 1, **options})
    expected = [await world.enqueue(TYPE, options) for _ in range(3)]
    assert await world.call(*claim_all) == []
    await world.call("select pause_queue('paused')")
    claimed = []
    while job:
        await world.call("select report_jobs($1)", [{**world.lease(job), "outcome": "completed"}])
        await world.maintain(1)
        job = next(iter(await world.call(*claim_all)), None)
        claimed += [job["id"]] if job else []
    assert claimed == expected


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("call", ["claim_jobs", "claim_next_job", "report_jobs", "complete_job"])
async def test_claims_and_reports_refuse_fixed_snapshots(world, call, level):
    """The session has the isolation level as its default."""
    await world.owner.fetchval("select set_limit($1, 1)", f"type:{TYPE}")
    job = await world.enqueue(TYPE, {})
    session = await world.session("strict", default_transaction_isolation=level)
    if call in ("report_jobs", "complete_job"):
        await world.claim()
    (lease,) = world.leases([job]) or [{}]
    sql, args = {
        "claim_jobs": (CLAIM, ("w", [QUEUE], [TYPE], 30.0, str(uuid4()))),
        "claim_next_job": ("select to_jsonb(j) from claim_next_job($1) j", (QUEUE,)),
        "report_jobs": ("select report_jobs($1)", ([{**lease, "outcome": "completed"}],)),
        "complete_job": (
            "select complete_job($1::text::uuid, lease_id => $2::text::uuid)",
            (job, lease.get("lease_id")),
        ),
    }[call]
    with pytest.raises(Refused, match="PQ_INVALID_ARGUMENT") as refused:
        await session.try_call(sql, *args)
    assert level in refused.value.text.lower()


async def test_a_limit_is_exact_while_another_claim_is_not_committed(world):
    await world.owner.fetchval("select set_limit($1, 1)", f"type:{TYPE}")
    for _ in range(2):
        await world.enqueue(TYPE, {})
    a, b = await world.session("a"), await world.session("b")
    await a.begin()
    assert len(await claim(a, "a")) == 1
    claiming = world.start(claim(b, "b"))
    await world.wait_until_blocked_or_done(b, claiming)
    await a.commit()
    assert await claiming == []
    assert await claim(b, "b") == []


# Leases ------------------------------------------------------------------------------------------


async def test_a_worker_with_heartbeats_keeps_a_job_whose_row_is_locked(world):
    """The uncommitted enqueue of a child locks its parent for longer than the lease."""
    parent = await world.enqueue(TYPE, {})
    await world.claim(lease=6)
    user = await world.session("user")
    await user.begin()
    await user.call(
        "select enqueue_job('child', queue => $1, options => $2)::text",
        QUEUE, {"depends_on": [parent]},
    )  # fmt: skip
    for _ in range(4):
        await world.pass_time(2)
        answer = await world.call(
            "select heartbeat_jobs('ordinary-worker', $1)", world.leases([parent])
        )
        assert answer["lost"] == []
    await user.commit()
    await world.maintain()
    assert await claim(await world.session("w2"), "w2") == []
    assert await world.report([parent]) == ["ok"]


async def test_a_report_after_the_last_attempt_expired_is_stale(world):
    job = await world.enqueue(TYPE, {"max_attempts": 1})
    await world.claim(lease=5)
    await world.pass_time(6)
    await world.maintain()
    assert await world.states([job]) == ["failed"]
    assert await world.report([job]) == ["stale"]
    (lease,) = world.leases([job])
    with pytest.raises(Refused, match="PQ_STALE_LEASE"):
        await world.try_call(
            "select complete_job($1::text::uuid, '{}', lease_id => $2::text::uuid)",
            job, lease["lease_id"],
        )  # fmt: skip


# States ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", ["retry_job", "change_jobs"])
async def test_a_retried_child_waits_for_the_parents_that_have_not_finished(world, retry):
    failing, other = [await world.enqueue(TYPE, {"max_attempts": 1}) for _ in range(2)]
    child = await world.enqueue("child", {"options": {"depends_on": [failing, other]}})
    await world.claim()
    await world.report([failing], "failed", error="boom")
    await world.maintain()
    assert await world.states([child]) == ["cancelled"]
    if retry == "retry_job":
        await world.call("select retry_job($1::text::uuid)", child)
    else:
        await world.call(
            "select change_jobs('retry', $1)", {"job_ids": [child], "status": "cancelled"}
        )
    assert await world.claim("child") == []
    assert await world.states([child]) == ["waiting"]
    await world.report([other])
    await world.maintain()
    assert [job["id"] for job in await world.claim("child")] == [child]


async def test_a_job_parked_without_a_delay_is_not_due_at_once(world):
    job = await world.enqueue(TYPE, {})
    await world.claim()
    assert await world.report([job], "parked") == ["ok"]
    for _ in range(5):
        await world.maintain(1)
        assert await world.claim() == []
        await world.pass_time(1)
    assert await world.states([job]) == ["parked"]
    await world.call("select send_event($1)", job)
    await world.maintain(1)
    assert [claimed["id"] for claimed in await world.claim()] == [job]


async def test_an_expiry_keeps_the_error_of_a_job_that_has_started(world):
    job = await world.enqueue(TYPE, {"options": {"expires_in_seconds": 10}})
    await world.claim()
    await world.report([job], "failed", error="boom", delay_seconds=30)
    await world.pass_time(15)
    await world.maintain()
    assert (await world.call("select get_job($1::text::uuid)", job))["error"] == "boom"


# Time --------------------------------------------------------------------------------------------


async def run_idle_worker(world: World) -> float:
    """Make the calls of an idle worker; return the seconds until its next calls."""
    await world.claim("nothing")
    answer = await world.call("select maintain_jobs()")
    return max(0.02, min(answer.get("next_in", 0.9), 0.9))


async def test_a_schedule_of_every_second_has_all_its_ticks(world):
    job = {"job_type": TYPE, "queue": QUEUE, "every_seconds": 1}
    await world.call("select set_schedule('each-second', $1)", job)
    end = world.now + timedelta(seconds=24.5)
    while world.now < end:
        await world.pass_time(await run_idle_worker(world))
    assert len(await world.claim()) in (24, 25)


async def test_a_delayed_job_is_claimable_on_time(world):
    job = await world.enqueue(TYPE, {"options": {"delay_seconds": 5}})
    due = world.now + timedelta(seconds=5)
    pause = await run_idle_worker(world)
    while await world.states([job]) == ["scheduled"]:
        await world.pass_time(pause)
        pause = await run_idle_worker(world)
    late = world.now - due
    assert late <= timedelta(seconds=0.25)


# Held snapshots ----------------------------------------------------------------------------------


async def pages_read(world: World, sql: str, *args: Any) -> int:
    """Return the number of pages that a call reads."""
    plan = await world.owner.fetchval(f"explain (analyze, buffers, format json) {sql}", *args)
    found = json.loads(plan)
    return found[0]["Plan"]["Shared Hit Blocks"] + found[0]["Plan"]["Shared Read Blocks"]


async def report_pages(world: World) -> int:
    job = await world.enqueue(TYPE, {})
    await world.claim()
    items = [{**lease, "outcome": "completed"} for lease in world.leases([job])]
    return await pages_read(world, "select report_jobs($1)", items)


async def enqueue_pages(world: World) -> int:
    return await pages_read(world, f"select enqueue_job('{TYPE}', queue => '{QUEUE}')")


async def claim_pages(world: World) -> int:
    await world.enqueue(TYPE, {})
    return await pages_read(world, "select claim_jobs('w', $1, $2, 1)", [QUEUE], [TYPE])


@pytest.mark.parametrize("pages", [report_pages, enqueue_pages, claim_pages])
@pytest.mark.parametrize(
    ("leave_dead", "count"),
    # Each update of a row reads its dead versions, so 20,000 updates would take minutes.
    [(internals.leave_dead_dependencies, 20_000), (internals.leave_dead_workers, 5_000)],
)
async def test_dead_rows_kept_by_a_held_snapshot_are_not_read(world, leave_dead, count, pages):
    """Check that dead rows of dependencies or workers do not make a call read more pages."""
    await world.enqueue(TYPE, {})
    await world.claim()
    for _ in range(3):
        before = await pages(world)
    await world.open_transaction("select 1 from job_queue")
    await leave_dead(world.owner, count)
    for _ in range(3):
        after = await pages(world)
    assert after <= before * 1.5 + 30, f"{before} pages, then {after}"


# Claims whose jobs never start --------------------------------------------------------------------

CLAIM_UNCONFIRMED = "select claim_jobs('w', $1, $2, 4, 10, confirms_start => true)"


async def lose_claim(world):
    """Claim jobs, do not confirm their start, and let their leases expire."""
    jobs = await world.call(CLAIM_UNCONFIRMED, [QUEUE], [TYPE])
    await world.pass_time(11)
    await world.maintain()
    return jobs


async def get_job(world, job):
    return await world.call("select get_job($1::text::uuid)", job)


@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_a_job_that_never_started_loses_no_attempt(world, max_attempts):
    job = await world.enqueue(TYPE, {"max_attempts": max_attempts})
    assert len(await lose_claim(world)) == 1
    row = await get_job(world, job)
    assert (row["status"], row["attempt"]) == ("pending", 0)


@pytest.mark.parametrize(
    "confirm",
    [
        "select heartbeat_jobs('w', jsonb_build_array(jsonb_build_object("
        "'job_id', $1::text, 'lease_id', $2::text)))",
        "select report_progress($1::text::uuid, $2::text::uuid, 50)",
    ],
)
async def test_a_job_whose_start_was_confirmed_loses_its_attempt(world, confirm):
    job = await world.enqueue(TYPE, {})
    (claimed,) = await world.call(CLAIM_UNCONFIRMED, [QUEUE], [TYPE])
    await world.call(confirm, job, claimed["lease_id"])
    await world.pass_time(21)
    await world.maintain()
    assert (await get_job(world, job))["attempt"] == 1


async def test_a_start_confirmed_while_the_row_is_locked_counts(world):
    job = await world.enqueue(TYPE, {})
    (claimed,) = await world.call(CLAIM_UNCONFIRMED, [QUEUE], [TYPE])
    holder = await world.open_transaction("select from job_queue for update")
    await world.call(
        "select heartbeat_jobs('w', jsonb_build_array(jsonb_build_object("
        "'job_id', $1::text, 'lease_id', $2::text)))",
        job, claimed["lease_id"],
    )  # fmt: skip
    await holder.execute("rollback")
    await world.pass_time(21)
    await world.maintain()
    assert (await get_job(world, job))["attempt"] == 1


async def test_a_claim_without_start_confirmation_uses_up_an_attempt(world):
    job = await world.enqueue(TYPE, {})
    await world.claim()
    await world.pass_time(3600)
    await world.maintain()
    assert (await get_job(world, job))["attempt"] == 1


async def test_last_attempts_and_lost_jobs_require_a_confirmation_of_the_start(world):
    await world.enqueue(TYPE, {"max_attempts": 1})
    await world.enqueue(TYPE, {"max_attempts": 3})
    confirmations = [
        [job.get("confirm_start", False) for job in await lose_claim(world)] for _ in range(2)
    ]
    assert confirmations == [[True, False], [True, True]]


async def test_a_job_that_kills_every_worker_before_its_confirmation_fails(world):
    job = await world.enqueue(TYPE, {"max_attempts": 1})
    for _ in range(20):
        await lose_claim(world)
        assert (await get_job(world, job))["status"] == "pending"
    await lose_claim(world)
    assert (await get_job(world, job))["status"] == "failed"


# Maintenance -------------------------------------------------------------------------------------


async def test_one_worker_has_the_lease_of_maintenance(world):
    sql = "select maintain_jobs(worker => $1)"
    answers = [await world.call(sql, worker) for worker in ("a", "b", "a")]
    assert [answer["leased"] for answer in answers] == [True, False, True]
    assert all(answer["next_in"] >= 0 for answer in answers)


async def test_a_failed_step_is_recorded_and_retried(world):
    parent = await make_parent(1)(world, {})
    await world.owner.execute(
        f"""create function refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on job_queue for each row
        when (old.job_type = '{BAD_CHILD}') execute function refuse()"""
    )
    await world.claim("bad-job")
    assert await world.report([parent]) == ["ok"]
    await world.maintain()
    (step,) = await internals.failed_steps(world.owner)
    assert "not now" in step["last_error"] and step["failures"] >= 1
    assert step["kind"] and step["subject"] and step["retry_at"] > world.now
    await world.expect_reason("not now")
    await world.owner.execute("drop trigger refuse on job_queue")
    await world.pass_time(3600)
    await world.maintain()
    assert len(await world.claim(BAD_CHILD)) == 1
    assert await internals.failed_steps(world.owner) == []


async def test_claim_next_job_runs_overdue_maintenance(world):
    job = await world.enqueue(TYPE, {})
    await world.claim(lease=5)
    await world.maintain(1)
    await world.pass_time(60)
    claimed = await world.call("select to_jsonb(j) from claim_next_job($1) j", QUEUE)
    assert claimed["id"] == job
