"""Jobs that wait for a limit key, a parent or a lease, and the maintenance that unblocks them."""

from typing import Any
from uuid import uuid4

import pytest

from .world import QUEUE, TYPE, Refused, World

pytestmark = pytest.mark.timeout(120)

KEY = "model:flux"
KEYED: dict[str, Any] = {"options": {"limit_keys": [KEY]}}
CLAIM_ONE = "select claim_jobs($4, $1, $2, 1, 3600, $3::text::uuid)"


async def enqueue_many(world: World, count: int) -> None:
    items = [{"job_type": TYPE, "queue": QUEUE, **KEYED}] * count
    await world.call("select enqueue_jobs($1)", items)


async def claim_one(world: World, request: str | None = None) -> list[Any]:
    return await world.call(CLAIM_ONE, [QUEUE], [TYPE], request or str(uuid4()), "w")


async def run_all_jobs(world: World, rounds: int = 10) -> int:
    """Claim, report and maintain in rounds of about a second; return how many jobs ran."""
    ran = 0
    for _ in range(rounds):
        while jobs := await world.claim():
            await world.report([job["id"] for job in jobs])
            ran += len(jobs)
        await world.pass_time(1.1)
        await world.maintain(1)
    return ran


@pytest.mark.parametrize("end", ["delete_limit", "resume_key"])
async def test_all_jobs_run_after_a_limit_or_pause_ends_even_if_one_round_is_not_enough(world, end):
    if end == "delete_limit":
        await world.call("select set_limit($1, 1)", KEY)
    else:
        await world.call("select pause_key($1)", KEY)
    await enqueue_many(world, 1300)
    running = [job["id"] for job in await world.claim()]
    await world.call(f"select {end}($1)", KEY)
    if running:
        await world.report(running)
        await world.maintain(1)
    assert await run_all_jobs(world) + len(running) == 1300


async def test_a_rate_starts_jobs_while_earlier_jobs_still_run(world):
    await world.call("select set_limit($1, rate => 1, period_seconds => 1)", KEY)
    await enqueue_many(world, 4)
    started = 0
    for _ in range(8):
        started += len(await world.claim())
        await world.pass_time(1.1)
        await world.maintain(1)
    assert started == 4


async def test_a_freed_slot_goes_to_the_next_job_if_the_first_is_replaced_without_its_key(world):
    await world.call("select set_limit($1, 1)", KEY)
    await enqueue_many(world, 1)
    [first] = await world.claim()
    unique = {"unique": {"on_conflict": "replace"}}
    await world.enqueue(TYPE, {"priority": 5, "options": {**unique, "limit_keys": [KEY]}})
    await enqueue_many(world, 3)
    assert await world.claim() == []
    await world.report([first["id"]])
    await world.maintain()
    await world.enqueue(TYPE, {"priority": 5, "options": unique})
    assert await run_all_jobs(world) == 4


@pytest.mark.parametrize("fault", ["refused", "locked"])
async def test_a_job_that_cannot_start_does_not_occupy_the_slot_of_its_key(world, fault):
    await world.call("select set_limit($1, 1)", KEY)
    await enqueue_many(world, 1)
    [first] = await world.claim()
    bad = await world.enqueue(TYPE, {"priority": 5, **KEYED})
    await enqueue_many(world, 2)
    assert await world.claim() == []
    await world.report([first["id"]])
    await world.maintain()
    if fault == "locked":
        await world.open_transaction("select from job_queue where id::text = $1 for update", bad)
    else:
        await world.owner.execute(
            f"""create function refuse() returns trigger language plpgsql
            as $$ begin raise exception 'not this one'; end $$;
            create trigger refuse before update on job_queue for each row
            when (new.id = '{bad}' and new.status = 'processing') execute function refuse()"""
        )
    assert await run_all_jobs(world) == 2


async def test_a_locked_key_at_the_head_of_the_queue_delays_no_other_job(world):
    await world.call("select set_limit($1, 5)", KEY)
    await enqueue_many(world, 2)
    free = await world.enqueue(TYPE, {})
    other = await world.session("other")
    await other.begin()
    assert len(await other.call(CLAIM_ONE, [QUEUE], [TYPE], str(uuid4()), "x")) == 1
    assert [job["id"] for job in await claim_one(world)] == [free]


async def test_a_new_limit_counts_running_jobs_in_several_steps(world):
    await enqueue_many(world, 1400)
    while await world.claim():
        pass
    await enqueue_many(world, 200)
    await world.call("select set_limit($1, 1450)", KEY)
    await world.maintain(1)
    assert await world.claim() == []
    await world.pass_time(1)
    await world.maintain()
    assert len(await world.claim()) == 50


async def test_a_child_that_could_not_be_resolved_is_resolved_later(world):
    parent = await world.enqueue(TYPE, {})
    await world.claim()
    other = await world.session("other")
    await other.begin()
    item = {"job_type": TYPE, "queue": QUEUE, "options": {"depends_on": [parent]}}
    [child] = await other.call("select enqueue_jobs($1)", [item])
    await world.report([parent])
    await other.commit()
    await world.owner.execute(
        f"""create function refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on job_queue for each row
        when (new.id = '{child["job_id"]}') execute function refuse()"""
    )
    for _ in range(4):
        await world.maintain(1)
        await world.pass_time(2)
    await world.owner.execute("drop trigger refuse on job_queue")
    for _ in range(4):
        await world.pass_time(60)
        await world.maintain(1)
    assert [job["id"] for job in await world.claim()] == [child["job_id"]]


async def test_children_of_a_failed_parent_are_cancelled_after_its_discard(world):
    parent = await world.enqueue(TYPE, {"max_attempts": 1})
    item = {"job_type": TYPE, "queue": QUEUE, "options": {"depends_on": [parent]}}
    children = await world.call("select enqueue_jobs($1)", [item] * 250)
    await world.claim()
    await world.report([parent], "failed", error="boom")
    await world.call("select change_jobs('discard', $1)", {"job_ids": [parent]})
    await world.maintain()
    assert set(await world.states([job["job_id"] for job in children])) == {"cancelled"}


async def test_a_late_repetition_of_a_claim_does_not_renew_an_ended_lease(world):
    job = await world.enqueue(TYPE, {})
    request = str(uuid4())
    [first] = await claim_one(world, request)
    failed = [{**world.lease(first), "outcome": "failed", "error": "boom", "delay_seconds": 0}]
    await world.call("select report_jobs($1)", failed)
    await world.pass_time(1)
    await world.maintain()
    assert await claim_one(world, request) == []
    answer = await world.call("select report_jobs($1)", failed)
    assert answer["outcomes"][0]["outcome"] == "repeated"
    assert [claimed["id"] for claimed in await claim_one(world)] == [job]


async def test_a_cancel_in_repeatable_read_is_refused(world):
    parent = await world.enqueue(TYPE, {})
    caller = await world.session("caller")
    await caller.connection.execute("begin isolation level repeatable read")
    with pytest.raises(Refused, match="PQ_INVALID_ARGUMENT"):
        await caller.try_call("select cancel_job($1::text::uuid)", parent)
    await caller.connection.execute("rollback")
