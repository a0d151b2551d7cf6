"""Jobs that wait for a limit key, a parent or a lease, and the maintenance that unblocks them."""

from typing import Any
from uuid import uuid4

import pytest

from .database import QUEUE, TYPE, IsolationDatabase, RefusedCall

pytestmark = pytest.mark.timeout(120)

KEY = "model:flux"
KEYED: dict[str, Any] = {"options": {"limit_keys": [KEY]}}
CLAIM_ONE = "select claim_jobs($4, $1, $2, 1, 3600, $3::text::uuid)"


async def enqueue_many(db: IsolationDatabase, count: int) -> None:
    items = [{"job_type": TYPE, "queue": QUEUE, **KEYED}] * count
    await db.call("select enqueue_jobs($1)", items)


async def claim_one(db: IsolationDatabase, request: str | None = None) -> list[Any]:
    return await db.call(CLAIM_ONE, [QUEUE], [TYPE], request or str(uuid4()), "w")


async def run_all_jobs(db: IsolationDatabase, rounds: int = 10) -> int:
    """Claim, report and maintain in rounds of about a second; return how many jobs ran."""
    ran = 0
    for _ in range(rounds):
        while jobs := await db.claim():
            await db.report([job["id"] for job in jobs])
            ran += len(jobs)
        await db.pass_time(1.1)
        await db.maintain(1)
    return ran


@pytest.mark.parametrize("end", ["delete_limit", "resume_key"])
async def test_all_jobs_run_after_a_limit_or_pause_ends_even_if_one_round_is_not_enough(db, end):
    if end == "delete_limit":
        await db.call("select set_limit($1, 1)", KEY)
    else:
        await db.call("select pause_key($1)", KEY)
    await enqueue_many(db, 1300)
    running = [job["id"] for job in await db.claim()]
    await db.call(f"select {end}($1)", KEY)
    if running:
        await db.report(running)
        await db.maintain(1)
    assert await run_all_jobs(db) + len(running) == 1300


async def test_a_rate_starts_jobs_while_earlier_jobs_still_run(db):
    await db.call("select set_limit($1, rate => 1, period_seconds => 1)", KEY)
    await enqueue_many(db, 4)
    started = 0
    for _ in range(8):
        started += len(await db.claim())
        await db.pass_time(1.1)
        await db.maintain(1)
    assert started == 4


async def test_a_freed_slot_goes_to_the_next_job_if_the_first_is_replaced_without_its_key(db):
    await db.call("select set_limit($1, 1)", KEY)
    await enqueue_many(db, 1)
    [first] = await db.claim()
    unique = {"unique": {"on_conflict": "replace"}}
    await db.enqueue(TYPE, {"priority": 5, "options": {**unique, "limit_keys": [KEY]}})
    await enqueue_many(db, 3)
    assert await db.claim() == []
    await db.report([first["id"]])
    await db.maintain()
    await db.enqueue(TYPE, {"priority": 5, "options": unique})
    assert await run_all_jobs(db) == 4


@pytest.mark.parametrize("fault", ["refused", "locked"])
async def test_a_job_that_cannot_start_does_not_occupy_the_slot_of_its_key(db, fault):
    await db.call("select set_limit($1, 1)", KEY)
    await enqueue_many(db, 1)
    [first] = await db.claim()
    bad = await db.enqueue(TYPE, {"priority": 5, **KEYED})
    await enqueue_many(db, 2)
    assert await db.claim() == []
    await db.report([first["id"]])
    await db.maintain()
    if fault == "locked":
        await db.open_transaction("select from job_queue where id::text = $1 for update", bad)
    else:
        await db.owner.execute(
            f"""create function refuse() returns trigger language plpgsql
            as $$ begin raise exception 'not this one'; end $$;
            create trigger refuse before update on job_queue for each row
            when (new.id = '{bad}' and new.status = 'processing') execute function refuse()"""
        )
    assert await run_all_jobs(db) == 2


async def test_a_locked_key_at_the_head_of_the_queue_delays_no_other_job(db):
    await db.call("select set_limit($1, 5)", KEY)
    await enqueue_many(db, 2)
    free = await db.enqueue(TYPE, {})
    other = await db.session("other")
    await other.begin()
    assert len(await other.call(CLAIM_ONE, [QUEUE], [TYPE], str(uuid4()), "x")) == 1
    assert [job["id"] for job in await claim_one(db)] == [free]


async def test_a_new_limit_counts_running_jobs_in_several_steps(db):
    await enqueue_many(db, 1400)
    while await db.claim():
        pass
    await enqueue_many(db, 200)
    await db.call("select set_limit($1, 1450)", KEY)
    await db.maintain(1)
    assert await db.claim() == []
    await db.pass_time(1)
    await db.maintain()
    assert len(await db.claim()) == 50


async def test_a_child_that_could_not_be_resolved_is_resolved_later(db):
    parent = await db.enqueue(TYPE, {})
    await db.claim()
    other = await db.session("other")
    await other.begin()
    item = {"job_type": TYPE, "queue": QUEUE, "options": {"depends_on": [parent]}}
    [child] = await other.call("select enqueue_jobs($1)", [item])
    await db.report([parent])
    await other.commit()
    await db.owner.execute(
        f"""create function refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on job_queue for each row
        when (new.id = '{child["job_id"]}') execute function refuse()"""
    )
    for _ in range(4):
        await db.maintain(1)
        await db.pass_time(2)
    await db.owner.execute("drop trigger refuse on job_queue")
    for _ in range(4):
        await db.pass_time(60)
        await db.maintain(1)
    assert [job["id"] for job in await db.claim()] == [child["job_id"]]


async def test_children_of_a_failed_parent_are_cancelled_after_its_discard(db):
    parent = await db.enqueue(TYPE, {"max_attempts": 1})
    item = {"job_type": TYPE, "queue": QUEUE, "options": {"depends_on": [parent]}}
    children = await db.call("select enqueue_jobs($1)", [item] * 250)
    await db.claim()
    await db.report([parent], "failed", error="boom")
    await db.call("select change_jobs('discard', $1)", {"job_ids": [parent]})
    await db.maintain()
    assert set(await db.states([job["job_id"] for job in children])) == {"cancelled"}


async def test_a_late_repetition_of_a_claim_does_not_renew_an_ended_lease(db):
    job = await db.enqueue(TYPE, {})
    request = str(uuid4())
    [first] = await claim_one(db, request)
    failed = [{**db.lease(first), "outcome": "failed", "error": "boom", "delay_seconds": 0}]
    await db.call("select report_jobs($1)", failed)
    await db.pass_time(1)
    await db.maintain()
    assert await claim_one(db, request) == []
    answer = await db.call("select report_jobs($1)", failed)
    assert answer["outcomes"][0]["outcome"] == "repeated"
    assert [claimed["id"] for claimed in await claim_one(db)] == [job]


async def test_a_cancel_in_repeatable_read_is_refused(db):
    parent = await db.enqueue(TYPE, {})
    caller = await db.session("caller")
    await caller.connection.execute("begin isolation level repeatable read")
    with pytest.raises(RefusedCall, match="PQ_INVALID_ARGUMENT"):
        await caller.try_call("select cancel_job($1::text::uuid)", parent)
    await caller.connection.execute("rollback")
