"""Calls during an open transaction or a table lock, or before maintenance has run."""

import pytest

from .database import EVENT, QUEUE, TYPE, IsolationDatabase

pytestmark = pytest.mark.timeout(180)

KEY = "model:flux"
KEYED = {"options": {"limit_keys": [KEY]}}
CLAIM = "select claim_jobs('w', $1, $2, 1, 60, confirms_start => true)"


async def claim_unconfirmed(db: IsolationDatabase) -> dict[str, str]:
    """Claim a job, but do not confirm its start."""
    (job,) = await db.call(CLAIM, [QUEUE], [TYPE])
    return job


async def expire(db: IsolationDatabase, job: str) -> None:
    """Let the lease of a job expire, and sweep it."""
    await db.owner.execute(
        "update job_queue set lease_expires_at = now() - interval '1 hour' where id = $1", job
    )
    await db.maintain()


@pytest.mark.parametrize(
    "change", ["select delete_limit($1)", "select set_limit($1, 5)"], ids=["deleted", "raised"]
)
async def test_a_job_blocked_while_its_limit_changes_is_unblocked(
    db: IsolationDatabase, change: str
):
    await db.call("select set_limit($1, 1)", KEY)
    first, second = [await db.enqueue(TYPE, KEYED) for _ in range(2)]
    assert [job["id"] for job in await db.claim()] == [first]
    claimer = await db.session("claims")
    await claimer.begin()
    assert await claimer.call("select claim_jobs('v', $1, $2, 1)", [QUEUE], [TYPE]) == []
    await db.call(change, KEY)
    await claimer.commit()
    for _ in range(3):
        await db.pass_time(2)
        await db.maintain()
    assert [job["id"] for job in await db.claim()] == [second]


async def test_a_job_of_a_paused_key_takes_no_slot_of_another_limit(db: IsolationDatabase):
    await db.call("select set_limit('global', 1)")
    await db.call("select pause_key($1)", KEY)
    await db.enqueue(TYPE, KEYED)
    second = await db.enqueue(TYPE, {})
    assert [job["id"] for job in await db.claim()] == [second]


@pytest.mark.parametrize("mode", ["share", "share row exclusive"])
async def test_a_heartbeat_extends_leases_during_create_index(db: IsolationDatabase, mode: str):
    job = await db.enqueue(TYPE, {})
    (claimed,) = await db.claim(lease=60)
    builder = await db.session("index")
    await builder.begin()
    await builder.try_call(f"lock table job_queue in {mode} mode")
    answer = await db.call("select heartbeat_jobs('w', $1)", [db.lease(claimed)])
    assert answer == {"cancel": [], "lost": []}
    await builder.commit()
    await db.owner.execute(
        "update job_queue set lease_expires_at = now() - interval '1 second' where id = $1", job
    )
    await db.maintain()
    assert await db.states([job]) == ["processing"]


async def test_a_start_confirmed_in_lease_extension_is_counted_by_the_sweep(db):
    job = await db.enqueue(TYPE, {"max_attempts": 1})
    claimed = await claim_unconfirmed(db)
    holder = await db.open_transaction("select from job_queue where id = $1 for update", job)
    await db.call("select heartbeat_jobs('w', $1)", [db.lease(claimed)])
    await holder.execute("rollback")
    await db.owner.execute(
        "update picture_queue.lease_extension set lease_expires_at = now() - interval '1 hour'"
    )
    await expire(db, job)
    assert await db.states([job]) == ["failed"]


async def test_a_claim_for_cleanup_is_retried_if_its_start_was_not_confirmed(
    db: IsolationDatabase,
):
    job = await db.enqueue(TYPE, {})
    (claimed,) = await db.claim()
    await db.report([claimed["id"]], "parked", event=EVENT)
    await db.call("select cancel_job($1)", job)
    await db.pass_time(1)
    await claim_unconfirmed(db)
    await expire(db, job)
    assert (await claim_unconfirmed(db))["id"] == job


async def test_a_retry_resets_the_unconfirmed_claims(db: IsolationDatabase):
    job = await db.enqueue(TYPE, {"max_attempts": 1})
    await db.owner.execute("update job_queue set unconfirmed_claims = 20 where id = $1", job)
    await claim_unconfirmed(db)
    await expire(db, job)
    assert await db.states([job]) == ["failed"]
    await db.call("select retry_job($1)", job)
    await claim_unconfirmed(db)
    await expire(db, job)
    assert await db.states([job]) == ["pending"]


async def test_a_second_event_of_a_name_is_stored_while_the_first_is_stored(
    db: IsolationDatabase,
):
    first, second = [await db.enqueue(TYPE, {}) for _ in range(2)]
    await db.claim()
    await db.report([first], "parked", event=EVENT)
    holder = await db.open_transaction("select from job_queue where id = $1 for update", first)
    await db.call("select send_event($1)", EVENT)
    await holder.execute("rollback")
    await db.call("select cancel_job($1)", first)
    await db.call("select send_event($1)", EVENT)
    await db.claim()
    await db.report([second], "parked", event=EVENT)
    await db.maintain()
    assert await db.states([second]) == ["pending"]


async def park_again_while_event_is_stored(db: IsolationDatabase) -> tuple[str, str]:
    """Park two jobs, send an event while one job is locked, and park the woken job again."""
    locked, free = [await db.enqueue(TYPE, {}) for _ in range(2)]
    await db.claim()
    await db.report([locked, free], "parked", event=EVENT)
    holder = await db.open_transaction("select from job_queue where id = $1 for update", locked)
    assert await db.call("select send_event($1)", EVENT) == {"woken": 1}
    await db.pass_time(1)
    await db.claim()
    await db.report([free], "parked", event=EVENT)
    await db.pass_time(1)
    await db.maintain()
    await holder.execute("rollback")
    return locked, free


async def test_a_job_that_parks_again_is_not_woken_by_the_event_that_woke_it(db: IsolationDatabase):
    locked, free = await park_again_while_event_is_stored(db)
    assert await db.states([locked, free]) == ["parked", "parked"]
    await db.pass_time(1)
    await db.maintain()
    assert await db.states([locked, free]) == ["pending", "parked"]
    assert await db.owner.fetchval("select count(*) from picture_queue.external_event") == 0


async def test_a_second_event_wakes_the_job_that_parked_again(db: IsolationDatabase):
    locked, free = await park_again_while_event_is_stored(db)
    assert await db.call("select send_event($1)", EVENT) == {"woken": 2}
    assert await db.states([locked, free]) == ["pending", "pending"]


async def test_a_stored_event_wakes_a_job_whose_first_wake_up_failed(db: IsolationDatabase):
    await db.call("select send_event($1)", EVENT)
    await db.pass_time(1)
    job = await db.enqueue(TYPE, {})
    await db.claim()
    await db.owner.execute(
        """create function public.refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not now'; end $$;
        create trigger refuse before update on public.job_queue for each row
        when (old.hold = 'parked') execute function public.refuse()"""
    )
    await db.report([job], "parked", event=EVENT)
    assert await db.states([job]) == ["parked"]
    await db.owner.execute("drop trigger refuse on public.job_queue")
    await db.pass_time(10)
    await db.maintain()
    assert await db.states([job]) == ["pending"]


async def test_a_claim_of_several_queues_locks_only_the_returned_job(db: IsolationDatabase):
    queues = [QUEUE, "other", "third"]
    jobs = {await db.enqueue(TYPE, {"queue": queue}): queue for queue in queues}
    consumer = await db.session("claims and works in one transaction")
    await consumer.begin()
    first = await consumer.call("select id::text from claim_next_job()")
    for job in [job for job in jobs if job != first]:
        claim = "select claim_jobs('w', $1, $2, 1)"
        assert [claimed["id"] for claimed in await db.call(claim, [jobs[job]], [TYPE])] == [job]


@pytest.mark.parametrize("locked", [1, 7])
async def test_a_claim_of_several_queues_skips_locked_and_expired_jobs(db, locked: int):
    """Claim without weights, while the first jobs of the queues cannot be claimed."""
    queues = [QUEUE, "other"]
    jobs = [
        await db.enqueue(TYPE, {"queue": queues[n % 2], "priority": -n, **fields})
        for n, fields in enumerate(
            [{}] * locked + [{"options": {"expires_in_seconds": 1}}] * 5 + [{}] * 4
        )
    ]
    await db.open_transaction(
        "select from job_queue where id::text = any($1) for update", jobs[:locked]
    )
    await db.pass_time(2)
    claim = "select claim_jobs('w', $1, $2, 3)"
    claimed = [job["id"] for job in await db.call(claim, queues, [TYPE])]
    assert claimed == jobs[locked + 5 : locked + 8]
