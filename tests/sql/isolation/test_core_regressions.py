"""Regression tests for defects of the core, each with the smallest input that failed."""

from typing import Any

import pytest

from . import internals
from .database import EVENT, QUEUE, TYPE, IsolationDatabase, RefusedCall

pytestmark = pytest.mark.timeout(180)

KEY = "model:flux"
KEYED: dict[str, Any] = {"options": {"limit_keys": [KEY]}}
ENQUEUE_MANY = """select enqueue_jobs((select jsonb_agg(
    jsonb_build_object('job_type', $1::text, 'queue', $2::text) || $4::jsonb)
    from generate_series(1, $3::integer)))"""
SKIPS_ROW = "returns trigger language plpgsql as $$ begin return null; end $$"


async def skip_updates(db: IsolationDatabase, condition: str) -> None:
    """Create a user's trigger that skips updates without an error."""
    await db.owner.execute(
        f"""create function skip() {SKIPS_ROW};
        create trigger skip before update on job_queue for each row
        when ({condition}) execute function skip()"""
    )


# Head of the queue -------------------------------------------------------------------------------


async def test_jobs_of_a_locked_key_do_not_delay_other_jobs(db):
    await db.call("select set_limit($1, 5000)", KEY)
    await db.call(ENQUEUE_MANY, TYPE, QUEUE, 1500, KEYED)
    holder = await db.session("holder")
    await holder.begin()
    # This transaction holds the key.
    await holder.call("select to_jsonb(j) from claim_next_job($1) j", QUEUE)
    other = await db.enqueue("other", {})
    assert [job["id"] for job in await db.claim(TYPE, "other")] == [other]
    await holder.commit()
    await db.pass_time(1)
    await db.maintain()
    assert len(await db.claim()) > 0


async def test_many_types_of_unclaimed_jobs_of_a_key_do_not_delay_other_types(db):
    await db.call("select set_limit($1, 2)", KEY)
    await db.owner.execute(
        "insert into job_queue (job_type, queue, status, hold, blocked_on, limit_keys) "
        f"select 'a' || g, '{QUEUE}', 'pending', 'blocked', '{KEY}', '{{{KEY}}}' "
        "from generate_series(1, 250) g"
    )
    await db.owner.execute(f"insert into picture_queue.freed_key (key, n) values ('{KEY}', 0)")
    await db.call("select claim_jobs('w', $1, '{zebra}', 1)", [QUEUE])
    zebra = await db.owner.fetchval(
        "insert into job_queue (job_type, queue, status, hold, blocked_on, limit_keys) "
        f"values ('zebra', '{QUEUE}', 'pending', 'blocked', '{KEY}', '{{{KEY}}}') "
        "returning id::text"
    )
    for _ in range(3):
        await db.maintain(1)
        await db.pass_time(2)
    jobs = await db.call("select claim_jobs('w', $1, '{zebra}', 1)", [QUEUE])
    assert [job["id"] for job in jobs] == [zebra]


@pytest.mark.parametrize("limited", [False, True], ids=["no limit", "limit"])
async def test_a_start_skipped_by_a_trigger_is_recorded_and_delays_no_other_job(db, limited):
    if limited:
        await db.call("select set_limit($1, 100)", f"queue:{QUEUE}")
    bad = [await db.enqueue("bad-job", {"priority": 5}) for _ in range(3)]
    good = await db.enqueue(TYPE, {})
    await skip_updates(db, "old.job_type = 'bad-job'")
    jobs = await db.call("select claim_jobs('w', $1, $2, 2)", [QUEUE], ["bad-job", TYPE])
    assert [job["id"] for job in jobs] == [good]
    steps = await internals.failed_steps(db.owner)
    assert {(step["kind"], step["subject"]) for step in steps} == {("claim", job) for job in bad}
    assert all("trigger" in step["last_error"] for step in steps)


async def test_a_promotion_skipped_by_a_trigger_is_recorded_and_delays_no_other_job(db):
    bad = await db.enqueue("bad-job", {"options": {"delay_seconds": 1}})
    good = await db.enqueue(TYPE, {"options": {"delay_seconds": 1}})
    await skip_updates(db, "old.job_type = 'bad-job'")
    await db.pass_time(2)
    await db.maintain()
    assert await db.states([bad, good]) == ["scheduled", "pending"]
    steps = await internals.failed_steps(db.owner)
    assert [(step["kind"], step["subject"]) for step in steps] == [("promote", bad)]


async def test_a_report_skipped_by_a_trigger_is_refused(db):
    bad, good = await db.enqueue("bad-job", {}), await db.enqueue(TYPE, {})
    await db.claim("bad-job", TYPE)
    await skip_updates(db, "old.job_type = 'bad-job'")
    assert await db.report([bad, good]) == ["refused", "ok"]


async def refuse_starts(db: IsolationDatabase, ahead: int, behind: int) -> str:
    """Enqueue one good job among thousands of jobs whose start a user's trigger refuses."""
    await db.call(ENQUEUE_MANY, "bad-job", QUEUE, ahead, {"priority": 5})
    good = await db.enqueue(TYPE, {"priority": 5})
    if behind:
        await db.call(ENQUEUE_MANY, "bad-job", QUEUE, behind, {"priority": 5})
    await db.owner.execute(
        """create function refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on job_queue for each row
        when (old.job_type = 'bad-job') execute function refuse()"""
    )
    return good


@pytest.mark.parametrize("max_jobs", [1, 10])
@pytest.mark.parametrize("limited", [False, True], ids=["no limit", "limit"])
async def test_one_claim_gets_past_thousands_of_jobs_whose_start_fails(db, limited, max_jobs):
    if limited:
        await db.call("select set_limit($1, 100)", f"queue:{QUEUE}")
    good = await refuse_starts(db, 3000, 0)
    claim = "select claim_jobs('w', $1, $2, $3)", [QUEUE], ["bad-job", TYPE], max_jobs
    assert [job["id"] for job in await db.call(*claim)] == [good]
    assert len(await internals.failed_steps(db.owner)) < 2500, "the claim tried nearly all jobs"


async def test_several_claims_get_past_thousands_of_jobs_whose_start_fails(db):
    good = await refuse_starts(db, 1500, 1500)
    tried = 0
    while not (claimed := await db.claim("bad-job", TYPE)):
        failed = len(await internals.failed_steps(db.owner))
        assert tried < failed < tried + 2500
        tried = failed
    assert [job["id"] for job in claimed] == [good]
    assert {step["failures"] for step in await internals.failed_steps(db.owner)} <= {1, 2}


# Events ------------------------------------------------------------------------------------------


async def test_an_event_wakes_all_parked_jobs_in_bounded_steps(db):
    await db.call(ENQUEUE_MANY, TYPE, QUEUE, 5000, {})
    await db.owner.execute(
        "update job_queue set status = 'processing', hold = 'parked', parked_on = $1, attempt = 1, "
        "parked_at = created_at",
        EVENT,
    )
    answer = await db.call("select send_event($1)", EVENT)
    assert answer["woken"] == 1000
    left = "select count(*) from job_queue where hold = 'parked'"
    assert await db.owner.fetchval(left) == 4000
    # One row of `external_event` records the remaining work, instead of a follow-up for each job.
    assert await db.owner.fetchval("select count(*) from picture_queue.follow_up") == 0
    for _ in range(6):
        await db.pass_time(1)
        await db.maintain(1)
    assert await db.owner.fetchval(left) == 0
    assert await db.owner.fetchval("select count(*) from picture_queue.external_event") == 0


async def test_an_event_is_kept_for_a_job_that_cannot_be_woken(db):
    jobs = [await db.enqueue(kind, {}) for kind in ("bad-job", TYPE)]
    await db.claim("bad-job", TYPE)
    assert await db.report(jobs, "parked", event=EVENT) == ["ok", "ok"]
    await skip_updates(db, "old.job_type = 'bad-job'")
    assert (await db.call("select send_event($1)", EVENT))["woken"] == 1
    await db.owner.execute("drop trigger skip on job_queue")
    await db.pass_time(5)
    await db.maintain()
    assert await db.states(jobs) == ["pending", "pending"]


# Heartbeats --------------------------------------------------------------------------------------


async def test_a_heartbeat_reports_the_older_of_two_leases_of_a_job_as_lost(db):
    job = await db.enqueue(TYPE, {})
    [old] = await db.claim()
    await db.report([job], "released")
    [new] = await db.claim()
    leases = [db.lease(old), db.lease(new)]
    answer = await db.call("select heartbeat_jobs('w', $1)", leases)
    assert answer["lost"] == [job]
    assert answer["lost_leases"] == [old["lease_id"]]
    answer = await db.call("select heartbeat_jobs('w', $1)", leases[1:])
    assert answer == {"cancel": [], "lost": []}


# Errors ------------------------------------------------------------------------------------------

REFUSAL = "a trigger of the user refuses the change"


async def add_refusing_trigger(db: IsolationDatabase, timing: str = "before update") -> None:
    kind = "constraint trigger" if "after" in timing else "trigger"
    deferred = "deferrable initially deferred" if "after" in timing else ""
    await db.owner.execute(
        f"""create function refuse() returns trigger language plpgsql
        set search_path = public, pg_temp
        as $$ begin raise exception '{REFUSAL}'; end $$;
        create {kind} refuse {timing} on job_queue {deferred} for each row
        when (old.job_type = 'bad-job') execute function refuse()"""
    )


CALLS = {
    "cancel_job": "select cancel_job('{job_id}')",
    "retry_job": "select retry_job('{job_id}')",
    "report_progress": "select report_progress('{job_id}', '{lease_id}', 50)",
    "complete_job": "select to_jsonb(complete_job('{job_id}', lease_id => '{lease_id}'))",
}


@pytest.mark.parametrize("timing", ["before update", "after update"])
@pytest.mark.parametrize("call", CALLS)
async def test_the_error_of_a_users_trigger_has_a_code_and_its_message(db, call, timing):
    job = await db.enqueue("bad-job", {"max_attempts": 1})
    await db.claim("bad-job")
    [lease] = db.leases([job])
    if call == "retry_job":
        await db.report([job], "failed")
    await add_refusing_trigger(db, timing)
    with pytest.raises(RefusedCall, match=REFUSAL) as refused:
        await db.try_call(CALLS[call].format(**lease))
    assert refused.value.code == "PQ_CONFLICT"


async def add_trigger_with_failing_constraint(db: IsolationDatabase) -> None:
    """Create a user's trigger that violates a deferred constraint of another table."""
    await db.owner.execute(
        """create table customer (id integer primary key);
        create table audit (
          customer integer constraint refused references customer deferrable initially deferred);
        create function note() returns trigger language plpgsql security definer
        as $$ begin insert into public.audit values (1); return null; end $$;
        create trigger note after update on job_queue for each row
        when (old.job_type = 'bad-job') execute function note()"""
    )


@pytest.mark.parametrize("in_other_table", [False, True], ids=["job_queue", "another table"])
@pytest.mark.parametrize("flow", ["claim", "report", "promote", "heartbeat"])
async def test_an_error_of_a_deferred_trigger_affects_only_its_job(db, flow, in_other_table):
    fields = {"options": {"delay_seconds": 1}} if flow == "promote" else {}
    jobs = [await db.enqueue(kind, fields) for kind in ("bad-job", TYPE)]
    if flow in ("report", "heartbeat"):
        await db.claim("bad-job", TYPE, lease=10)
    if in_other_table:
        await add_trigger_with_failing_constraint(db)
    else:
        await add_refusing_trigger(db, "after update")
    if flow == "promote":
        await db.pass_time(2)
        await db.maintain(1)
    if flow == "claim":
        assert [job["id"] for job in await db.claim("bad-job", TYPE)] == jobs[1:]
    elif flow == "report":
        assert await db.report(jobs) == ["refused", "ok"]
    elif flow == "promote":
        assert await db.states(jobs) == ["scheduled", "pending"]
    else:
        for _ in range(4):
            await db.pass_time(5)
            answer = await db.call("select heartbeat_jobs('w', $1)", db.leases(jobs))
            assert answer["lost"] == []
    if flow != "heartbeat":
        reason = '"refused"' if in_other_table else REFUSAL
        assert reason in str(await internals.failed_steps(db.owner))


async def test_a_deferred_constraint_of_the_caller_is_checked_at_the_commit(db):
    await add_trigger_with_failing_constraint(db)
    job = await db.enqueue(TYPE, {})
    async with db.owner.transaction():
        await db.owner.execute("insert into audit values (2)")
        await db.owner.execute("select cancel_job($1::uuid)", job)
        await db.owner.execute("insert into customer values (2)")
    assert await db.states([job]) == ["cancelled"]


async def test_a_deferred_constraint_may_have_the_name_of_another_constraint(db):
    job = await db.enqueue(TYPE, {})
    await add_refusing_trigger(db, "after update")
    await db.owner.execute("create table other (a integer constraint refuse check (a > 0))")
    assert [claimed["id"] for claimed in await db.claim()] == [job]
    assert await db.report([job]) == ["ok"]
