"""Failing steps are retried later, and locked rows are skipped."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from . import internals
from .database import EVENT, QUEUE, TYPE, IsolationDatabase, RefusedCall

pytestmark = pytest.mark.timeout(120)

KEY = "model:flux"
LIMITED: dict[str, Any] = {"options": {"limit_keys": [KEY]}}
WAIT_TIMEOUT = 5  # Seconds. A call that takes longer is assumed to wait for a lock.


async def refuse_updates(db: IsolationDatabase, table: str) -> None:
    await db.owner.execute(
        f"""create function refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on picture_queue.{table} for each row
        execute function refuse()"""
    )


async def test_a_failed_step_of_a_limit_key_is_retried_after_its_delay(db):
    await db.call("select set_limit($1, 1)", KEY)
    job, _ = [await db.enqueue(TYPE, LIMITED) for _ in range(2)]
    await db.claim()
    await refuse_updates(db, "limit_key")
    await db.report([job])
    for _ in range(4):
        await db.claim()
        await db.maintain(1)
    steps = await internals.failed_steps(db.owner)
    assert [(step["kind"], step["subject"], step["failures"]) for step in steps] == [
        ("key", KEY, 1)
    ]
    await db.owner.execute("drop trigger refuse on picture_queue.limit_key")
    await db.pass_time(3)
    await db.maintain()
    assert len(await db.claim()) == 1


async def test_a_failed_step_of_a_limit_rule_is_not_retried_at_once(db):
    await db.enqueue(TYPE, LIMITED)
    await db.claim()
    await db.call("select set_limit($1, 1)", KEY)
    await refuse_updates(db, "limit_rule")
    await db.maintain(4)
    steps = await internals.failed_steps(db.owner)
    assert [(step["kind"], step["failures"]) for step in steps] == [("rule", 1)]


async def test_a_new_limit_counts_a_running_job_whose_row_is_locked(db):
    await db.enqueue(TYPE, LIMITED)
    [running] = await db.claim()
    await db.enqueue(TYPE, LIMITED)
    holder = await db.open_transaction(
        "select from job_queue where id::text = $1 for update", running["id"]
    )
    await db.call("select set_limit($1, 1)", KEY)
    for _ in range(3):
        await db.maintain(1)
        await db.pass_time(1)
        assert await db.claim() == []
    await holder.execute("rollback")
    for _ in range(3):
        await db.pass_time(1)
        await db.maintain(1)
    assert await db.claim() == []
    assert await db.report([running["id"]]) == ["ok"]
    await db.maintain(1)
    assert len(await db.claim()) == 1


async def test_a_job_locked_for_over_ten_seconds_no_longer_blocks_its_key(db):
    await db.enqueue(TYPE, LIMITED)
    [running] = await db.claim()
    await db.enqueue(TYPE, LIMITED)
    await db.open_transaction("select from job_queue where id::text = $1 for update", running["id"])
    await db.call("select set_limit($1, 1)", KEY)
    await db.pass_time(11)
    await db.maintain(1)
    assert len(await db.claim()) == 1


async def start_batch(db: IsolationDatabase, count: int) -> list[str]:
    item = {"job_type": TYPE, "queue": QUEUE}
    answer = await db.call("select enqueue_batch($1)", [item] * count)
    db.saved["batch"] = answer["batch_id"]
    await db.claim()
    return [job["job_id"] for job in answer["jobs"]]


async def test_counting_a_batch_does_not_wait_for_a_lock_on_the_batch(db):
    first, second = await start_batch(db, 2)
    batch = db.saved["batch"]
    holder = await db.open_transaction(
        "select from picture_queue.batch where id::text = $1 for update", batch
    )
    await db.report([first])
    await holder.execute("rollback")
    other = await db.session("other")
    await other.begin()
    item = {**db.leases([second])[0], "outcome": "completed"}
    await other.call("select report_jobs($1)", [item])
    await db.pass_time(1)
    await asyncio.wait_for(db.maintain(1), WAIT_TIMEOUT)
    assert await internals.failed_steps(db.owner) == []
    await other.commit()
    assert (await db.call("select get_batch($1::text::uuid)", batch))["open"] == 0


async def test_reports_during_a_lock_on_a_batch_do_not_change_the_counts_of_other_reports(db):
    """While the batch is locked, each report adds a row; maintenance adds up their counts."""
    jobs = await start_batch(db, 5)
    batch = db.saved["batch"]
    holder = await db.open_transaction(
        "select from picture_queue.batch where id::text = $1 for update", batch
    )
    changes = "select array_agg(xmin::text order by id) from picture_queue.follow_up"
    await db.report(jobs[:1])
    first = await db.owner.fetchval(changes)
    await db.report(jobs[1:2])
    assert (await db.owner.fetchval(changes))[:1] == first
    await db.report(jobs[2:3])
    await db.maintain(1)
    assert len(await db.owner.fetchval(changes)) == 1
    assert (await db.call("select get_batch($1::text::uuid)", batch))["open"] == 2
    await holder.execute("rollback")
    await db.pass_time(1)
    await db.maintain(1)
    assert await db.owner.fetchval(changes) is None
    assert (await db.call("select get_batch($1::text::uuid)", batch))["completed"] == 3


async def test_waking_parked_jobs_does_not_wait_for_a_lock_on_the_stored_event(db):
    job = await db.enqueue(TYPE, {})
    await db.claim()
    await db.report([job], "parked", event=EVENT)
    holder = await db.open_transaction("select from job_queue where id::text = $1 for update", job)
    await db.call("select send_event($1)", EVENT)
    await holder.execute("rollback")
    await db.open_transaction("select from picture_queue.external_event for update")
    await db.pass_time(1)
    await asyncio.wait_for(db.maintain(1), WAIT_TIMEOUT)
    assert await internals.failed_steps(db.owner) == []


async def test_a_new_row_of_a_limit_key_wakes_maintenance(db):
    """The key has a start within the period of its rate, but no row in `limit_key`."""
    await db.call("select set_limit($1, rate => 1, period_seconds => 0.3)", KEY)
    await db.call("select register_worker('w', $1, '{}')", [QUEUE])
    await db.call("select maintain_jobs(worker => 'w')")
    await db.call("select maintain_jobs(worker => 'w')")
    messages: list[str] = []
    listener = await db.session("listener")
    await listener.connection.add_listener(
        "picture_queue", lambda *message: messages.append(message[3])
    )
    await internals.plan_started_key(db.owner, KEY)
    await listener.connection.execute("select 1")
    assert [text for text in messages if "maintain" in text]


async def test_a_repeated_claim_returns_a_job_with_a_row_in_lease_extension(db):
    job, request = await db.enqueue(TYPE, {}), str(uuid4())
    sql = "select claim_jobs('w', $1, $2, 5, 6, $3::text::uuid)", [QUEUE], [TYPE], request
    [first] = await db.call(*sql)
    later = await db.enqueue(TYPE, {})
    await db.open_transaction("select from job_queue where id::text = $1 for update", job)
    for _ in range(2):
        await db.pass_time(4)
        answer = await db.call("select heartbeat_jobs('w', $1)", [db.lease(first)])
        assert answer["lost"] == []
    assert [claimed["id"] for claimed in await db.call(*sql)] == [job]
    assert await db.states([later]) == ["pending"]


@pytest.mark.parametrize("free", [True, False], ids=["row is free", "row is locked"])
async def test_a_heartbeat_does_not_wait_for_an_open_heartbeat(db, free):
    """The open heartbeat writes to lease_extension and is never committed."""
    jobs = [await db.enqueue(TYPE, {}) for _ in range(2)]
    await db.claim(lease=60)
    leases = db.leases(jobs)
    holder = await db.open_transaction(
        "select from job_queue where id::text = $1 for update", jobs[0]
    )
    if free:
        await db.call("select heartbeat_jobs('w', $1)", leases[:1])
    open_session = await db.session("open")
    await open_session.begin()
    await open_session.call("select heartbeat_jobs('w', $1)", leases[:1])
    if free:
        await holder.execute("rollback")
    await db.pass_time(1)
    heartbeat = db.call("select heartbeat_jobs('w', $1)", leases)
    answer = await asyncio.wait_for(heartbeat, WAIT_TIMEOUT)
    busy = {} if free else {"busy": jobs[:1]}
    assert answer == {"cancel": [], "lost": []} | busy
    remaining = await db.owner.fetchval(
        "select lease_expires_at - picture_queue._now() from job_queue where id::text = $1", jobs[1]
    )
    assert remaining.total_seconds() == 60


async def test_a_heartbeat_names_the_leases_that_it_had_no_time_for(db):
    """Another heartbeat extends 299 leases; each try to extend one of them waits for a lock."""
    jobs = [await db.enqueue(TYPE, {}) for _ in range(300)]
    await db.claim(lease=60)
    free, *extended_elsewhere = db.leases(jobs)
    await db.open_transaction(
        "select from job_queue where id::text <> $1 for update", free["job_id"]
    )
    open_session = await db.session("open")
    await open_session.begin()
    await open_session.call("select heartbeat_jobs('w', $1)", extended_elsewhere)
    answer = await db.call("select heartbeat_jobs('w', $1)", [free, *extended_elsewhere])
    busy = answer.pop("busy")
    assert answer == {"cancel": [], "lost": []}
    assert sorted(busy) == sorted(lease["job_id"] for lease in extended_elsewhere)


async def seconds_until_expiry(db: IsolationDatabase, job: str) -> float:
    """Return the seconds until the lease of a job ends."""
    return await db.owner.fetchval(
        "select extract(epoch from lease_expires_at - picture_queue._now())::float8 "
        "from job_queue where id::text = $1",
        job,
    )


@pytest.mark.parametrize("bad", [None, 1, "x", [], {"job_id": "x"}, {"lease_id": 5}])
async def test_a_malformed_lease_does_not_affect_other_leases(db, bad):
    jobs = [await db.enqueue(TYPE, {}) for _ in range(2)]
    await db.claim(lease=60)
    first, second = db.leases(jobs)
    await db.pass_time(30)
    answer = await db.call("select heartbeat_jobs('w', $1)", [first, bad, second])
    lost = bad.get("job_id") if isinstance(bad, dict) else None
    assert answer == {"cancel": [], "lost": [lost]}
    assert [await seconds_until_expiry(db, job) for job in jobs] == [60, 60]


async def test_a_list_of_malformed_leases_is_refused(db):
    with pytest.raises(RefusedCall, match="PQ_INVALID_ARGUMENT"):
        await db.try_call("select heartbeat_jobs('w', $1)", [None, {"job_id": "x"}])


async def test_a_heartbeat_splits_a_list_with_a_lease_that_cannot_be_written(db):
    jobs = [await db.enqueue(TYPE, {}) for _ in range(100)]
    await db.claim(lease=60)
    await db.owner.execute(
        f"""create function public.refuse() returns trigger language plpgsql as $$ begin
          if new.id = '{jobs[50]}' then raise exception 'refused'; end if; return new; end $$;
        create trigger refuse before update on public.job_queue
        for each row execute function public.refuse()"""
    )
    await db.pass_time(30)
    answer = await db.call("select heartbeat_jobs('w', $1)", db.leases(jobs))
    assert answer == {"cancel": [], "lost": []}
    assert {await seconds_until_expiry(db, job) for job in jobs if job != jobs[50]} == {60}
    # The leases of each list are extended in one subtransaction, which has its own id.
    lists = await db.owner.fetchval("select count(distinct xmin::text) from job_queue")
    assert lists < 10
