"""Calls during an open transaction or a table lock, or before maintenance has run."""

import pytest

from .world import EVENT, QUEUE, TYPE, World

pytestmark = pytest.mark.timeout(180)

KEY = "model:flux"
KEYED = {"options": {"limit_keys": [KEY]}}
CLAIM = "select claim_jobs('w', $1, $2, 1, 60, confirms_start => true)"


async def claim_unconfirmed(world: World) -> dict[str, str]:
    """Claim a job, but do not confirm its start."""
    (job,) = await world.call(CLAIM, [QUEUE], [TYPE])
    return job


async def expire(world: World, job: str) -> None:
    """Let the lease of a job expire, and sweep it."""
    await world.owner.execute(
        "update job_queue set lease_expires_at = now() - interval '1 hour' where id = $1", job
    )
    await world.maintain()


@pytest.mark.parametrize(
    "change", ["select delete_limit($1)", "select set_limit($1, 5)"], ids=["deleted", "raised"]
)
async def test_a_job_blocked_while_its_limit_changes_is_unblocked(world: World, change: str):
    await world.call("select set_limit($1, 1)", KEY)
    first, second = [await world.enqueue(TYPE, KEYED) for _ in range(2)]
    assert [job["id"] for job in await world.claim()] == [first]
    other = await world.session("claims")
    await other.begin()
    assert await other.call("select claim_jobs('v', $1, $2, 1)", [QUEUE], [TYPE]) == []
    await world.call(change, KEY)
    await other.commit()
    for _ in range(3):
        await world.pass_time(2)
        await world.maintain()
    assert [job["id"] for job in await world.claim()] == [second]


async def test_a_job_of_a_paused_key_takes_no_slot_of_another_limit(world: World):
    await world.call("select set_limit('global', 1)")
    await world.call("select pause_key($1)", KEY)
    await world.enqueue(TYPE, KEYED)
    second = await world.enqueue(TYPE, {})
    assert [job["id"] for job in await world.claim()] == [second]


@pytest.mark.parametrize("mode", ["share", "share row exclusive"])
async def test_a_heartbeat_extends_leases_during_create_index(world: World, mode: str):
    job = await world.enqueue(TYPE, {})
    (claimed,) = await world.claim(lease=60)
    builder = await world.session("index")
    await builder.begin()
    await builder.try_call(f"lock table job_queue in {mode} mode")
    answer = await world.call("select heartbeat_jobs('w', $1)", [world.lease(claimed)])
    assert answer == {"cancel": [], "lost": []}
    await builder.commit()
    await world.owner.execute(
        "update job_queue set lease_expires_at = now() - interval '1 second' where id = $1", job
    )
    await world.maintain()
    assert await world.states([job]) == ["processing"]


async def test_a_start_confirmed_in_lease_extension_is_counted_by_the_sweep(world):
    job = await world.enqueue(TYPE, {"max_attempts": 1})
    claimed = await claim_unconfirmed(world)
    holder = await world.open_transaction("select from job_queue where id = $1 for update", job)
    await world.call("select heartbeat_jobs('w', $1)", [world.lease(claimed)])
    await holder.execute("rollback")
    await world.owner.execute(
        "update picture_queue.lease_extension set lease_expires_at = now() - interval '1 hour'"
    )
    await expire(world, job)
    assert await world.states([job]) == ["failed"]


async def test_a_claim_for_cleanup_is_repeated_if_its_start_was_not_confirmed(world: World):
    job = await world.enqueue(TYPE, {})
    (claimed,) = await world.claim()
    await world.report([claimed["id"]], "parked", event=EVENT)
    await world.call("select cancel_job($1)", job)
    await world.pass_time(1)
    await claim_unconfirmed(world)
    await expire(world, job)
    assert (await claim_unconfirmed(world))["id"] == job


async def test_a_retry_resets_the_unconfirmed_claims(world: World):
    job = await world.enqueue(TYPE, {"max_attempts": 1})
    await world.owner.execute("update job_queue set unconfirmed_claims = 20 where id = $1", job)
    await claim_unconfirmed(world)
    await expire(world, job)
    assert await world.states([job]) == ["failed"]
    await world.call("select retry_job($1)", job)
    await claim_unconfirmed(world)
    await expire(world, job)
    assert await world.states([job]) == ["pending"]


async def test_an_event_is_stored_although_an_older_event_of_its_name_is_stored(world: World):
    first, second = [await world.enqueue(TYPE, {}) for _ in range(2)]
    await world.claim()
    await world.report([first], "parked", event=EVENT)
    holder = await world.open_transaction("select from job_queue where id = $1 for update", first)
    await world.call("select send_event($1)", EVENT)
    await holder.execute("rollback")
    await world.call("select cancel_job($1)", first)
    await world.call("select send_event($1)", EVENT)
    await world.claim()
    await world.report([second], "parked", event=EVENT)
    await world.maintain()
    assert await world.states([second]) == ["pending"]


async def park_again_while_event_is_stored(world: World) -> tuple[str, str]:
    """Park two jobs, send an event while one job is locked, and park the woken job again."""
    locked, free = [await world.enqueue(TYPE, {}) for _ in range(2)]
    await world.claim()
    await world.report([locked, free], "parked", event=EVENT)
    holder = await world.open_transaction("select from job_queue where id = $1 for update", locked)
    assert await world.call("select send_event($1)", EVENT) == {"woken": 1}
    await world.pass_time(1)
    await world.claim()
    await world.report([free], "parked", event=EVENT)
    await world.pass_time(1)
    await world.maintain()
    await holder.execute("rollback")
    return locked, free


async def test_a_job_that_parks_again_is_not_woken_by_the_event_that_woke_it(world: World):
    locked, free = await park_again_while_event_is_stored(world)
    assert await world.states([locked, free]) == ["parked", "parked"]
    await world.pass_time(1)
    await world.maintain()
    assert await world.states([locked, free]) == ["pending", "parked"]
    assert await world.owner.fetchval("select count(*) from picture_queue.signal") == 0


async def test_a_second_event_wakes_the_job_that_parked_again(world: World):
    locked, free = await park_again_while_event_is_stored(world)
    assert await world.call("select send_event($1)", EVENT) == {"woken": 2}
    assert await world.states([locked, free]) == ["pending", "pending"]


async def test_a_stored_event_wakes_a_job_whose_first_wake_up_failed(world: World):
    await world.call("select send_event($1)", EVENT)
    await world.pass_time(1)
    job = await world.enqueue(TYPE, {})
    await world.claim()
    await world.owner.execute(
        """create function public.refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on public.job_queue for each row
        when (old.hold = 'parked') execute function public.refuse()"""
    )
    await world.report([job], "parked", event=EVENT)
    assert await world.states([job]) == ["parked"]
    await world.owner.execute("drop trigger refuse on public.job_queue")
    await world.pass_time(10)
    await world.maintain()
    assert await world.states([job]) == ["pending"]


async def test_a_claim_of_several_queues_locks_only_the_job_that_it_returns(world: World):
    queues = [QUEUE, "other", "third"]
    jobs = {await world.enqueue(TYPE, {"queue": queue}): queue for queue in queues}
    consumer = await world.session("claims and works in one transaction")
    await consumer.begin()
    first = await consumer.call("select id::text from claim_next_job()")
    for job in [job for job in jobs if job != first]:
        claim = "select claim_jobs('w', $1, $2, 1)"
        assert [claimed["id"] for claimed in await world.call(claim, [jobs[job]], [TYPE])] == [job]


@pytest.mark.parametrize("locked", [1, 7])
async def test_a_claim_of_several_queues_skips_locked_and_expired_jobs(world, locked: int):
    """Claim without weights, while the first jobs of the queues cannot be claimed."""
    queues = [QUEUE, "other"]
    jobs = [
        await world.enqueue(TYPE, {"queue": queues[n % 2], "priority": -n, **given})
        for n, given in enumerate(
            [{}] * locked + [{"options": {"expires_in_seconds": 1}}] * 5 + [{}] * 4
        )
    ]
    await world.open_transaction(
        "select from job_queue where id::text = any($1) for update", jobs[:locked]
    )
    await world.pass_time(2)
    claim = "select claim_jobs('w', $1, $2, 3)"
    claimed = [job["id"] for job in await world.call(claim, queues, [TYPE])]
    assert claimed == jobs[locked + 5 : locked + 8]
