"""Calls while another open transaction holds a lock on a row or key that they use."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

pytestmark = pytest.mark.timeout(120)


async def wait_until_blocked(client: Any, other: Any) -> None:
    """Return as soon as the connection of `other` waits for a lock."""
    pid = other.connection.get_server_pid()
    async with asyncio.timeout(20):
        while True:
            if await client.value("select cardinality(pg_blocking_pids($1)) > 0", pid):
                return
            await asyncio.sleep(0.01)


async def test_a_heartbeat_does_not_wait_for_a_lock_on_a_job(clients):
    """The enqueue of a child locks its parent; the worker must still extend its leases."""
    await clients.one.enqueue({}, {})
    parent, other = await clients.one.claim(2)
    holder = clients.other.connection.transaction()
    await holder.start()
    await clients.other.enqueue({"options": {"depends_on": [parent["id"]]}})
    leases = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in (parent, other)]
    before = (await clients.one.job(other["id"]))["lease_expires_at"]
    answer = await asyncio.wait_for(
        clients.one.value("select heartbeat_jobs($1, $2)", clients.one.name, leases), 10
    )
    assert answer == {"cancel": [], "lost": []}
    assert (await clients.one.job(other["id"]))["lease_expires_at"] > before
    await holder.commit()
    await clients.one.report([parent, other], "completed")
    await clients.one.report(await clients.one.claim(), "completed")


async def test_a_job_can_be_added_to_a_batch_while_its_parent_ends(clients):
    """The enqueue and the report do not wait for each other, and the batch counts both."""
    batch = uuid4()
    item = {"job_type": "race-job", "queue": clients.queue}
    await clients.one.value("select enqueue_batch($1, null, $2)", [item, item], batch)
    parent, last = await clients.one.claim(2)
    ending = clients.one.connection.transaction()
    await ending.start()
    await clients.one.report([parent], "completed")  # the report locks the batch's row
    options = {"depends_on": [parent["id"]]}
    (child,) = await asyncio.wait_for(clients.other.enqueue({"options": options}), 10)
    await ending.commit()
    adding = clients.other.connection.transaction()
    await adding.start()
    (added,) = await clients.other.enqueue({"options": {"batch_id": str(batch), **options}})
    await asyncio.wait_for(clients.one.report([last], "completed"), 10)
    await adding.commit()
    await clients.one.maintain()
    row = await clients.one.value("select get_batch($1)", batch)
    assert (row["total"], row["completed"], row["finished_at"]) == (3, 2, None)
    jobs = await clients.one.claim(5)
    assert {job["id"] for job in jobs} == {child["job_id"], added["job_id"]}
    await clients.one.report(jobs, "completed")
    assert (await clients.one.value("select get_batch($1)", batch))["finished_at"] is not None


@pytest.mark.parametrize("on_conflict", ["replace", "debounce"])
async def test_a_job_is_created_if_its_duplicate_ends_during_the_enqueue(clients, on_conflict):
    unique = {"by": ["n"], "on_conflict": on_conflict}
    await clients.one.enqueue({"payload": {"n": 1, "v": 1}, "options": {"unique": unique}})
    ending = clients.one.connection.transaction()
    await ending.start()
    await clients.one.report(await clients.one.claim(), "completed")
    enqueueing = asyncio.create_task(
        clients.other.enqueue({"payload": {"n": 1, "v": 2}, "options": {"unique": unique}})
    )
    await wait_until_blocked(clients.members[2], clients.other)
    await ending.commit()
    ((answer,), jobs) = (await enqueueing, await clients.one.claim())
    assert answer["outcome"] == "created"
    assert [job["payload"]["v"] for job in jobs] == [2]
    await clients.one.report(jobs, "completed")


@pytest.mark.parametrize("on_conflict", ["replace", "debounce"])
async def test_a_job_is_created_if_its_duplicate_ends_before_it_is_locked(clients, on_conflict):
    """The enqueue reads a pending duplicate; when it gets the lock, the duplicate is cancelled."""
    unique = {"by": ["n"], "on_conflict": on_conflict}
    await clients.one.enqueue({"payload": {"n": 1, "v": 1}, "options": {"unique": unique}})
    jobs = await clients.one.claim()
    await clients.one.report(jobs, "failed", delay_seconds=0)  # the job is pending again
    held = clients.one.connection.transaction()
    await held.start()
    await clients.one.value(
        "select id from job_queue where id = $1::text::uuid for update", jobs[0]["id"]
    )
    enqueueing = asyncio.create_task(
        clients.other.enqueue({"payload": {"n": 1, "v": 2}, "options": {"unique": unique}})
    )
    await wait_until_blocked(clients.members[2], clients.other)
    await clients.one.value("select cancel_job($1)", UUID(jobs[0]["id"]))
    await held.commit()
    (answer,) = await enqueueing
    assert answer["outcome"] == "created"
    jobs = await clients.one.claim()
    assert [job["payload"]["v"] for job in jobs] == [2]
    await clients.one.report(jobs, "completed")


async def test_a_claim_repeated_while_the_first_still_runs_returns_the_same_jobs(clients):
    await clients.one.enqueue({}, {})
    request = uuid4()

    async def claim(client: Any) -> list[str]:
        jobs = await client.value(
            "select claim_jobs('twin', $1, '{race-job}', 1, 30, $2)", [clients.queue], request
        )
        return [job["id"] for job in jobs]

    first = clients.one.connection.transaction()
    await first.start()
    claimed = await claim(clients.one)
    again = asyncio.create_task(claim(clients.other))
    waiting = asyncio.create_task(wait_until_blocked(clients.members[2], clients.other))
    await asyncio.wait({again, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    await first.commit()
    assert await again == claimed
    assert await clients.one.count_running() == 1


async def test_a_cancel_does_not_wait_for_a_locked_child(clients):
    (parent,) = await clients.one.enqueue({})
    (child,) = await clients.one.enqueue({"options": {"depends_on": [parent["job_id"]]}})
    holder = clients.one.connection.transaction()
    await holder.start()
    await clients.one.value(
        "select id from job_queue where id = $1::text::uuid for update", child["job_id"]
    )
    answer = await asyncio.wait_for(
        clients.other.value("select cancel_job($1)", UUID(parent["job_id"])), 10
    )
    assert answer["status"] == "cancelled"
    await holder.rollback()
    await clients.other.maintain()
    assert (await clients.one.job(child["job_id"]))["status"] == "cancelled"


async def test_maintenance_postpones_a_locked_child(clients):
    (parent,) = await clients.one.enqueue({"max_attempts": 1})
    (child,) = await clients.one.enqueue({"options": {"depends_on": [parent["job_id"]]}})
    await clients.one.claim()
    await clients.one.value(
        "update job_queue set lease_expires_at = '2000-01-01' where id = $1::text::uuid",
        parent["job_id"],
    )
    holder = clients.one.connection.transaction()
    await holder.start()
    await clients.one.value(
        "select id from job_queue where id = $1::text::uuid for update", child["job_id"]
    )
    await clients.other.value("select picture_queue._do_due_steps(100, true)")
    assert (await clients.other.job(parent["job_id"]))["status"] == "failed"
    assert (await clients.other.job(child["job_id"]))["hold"] == "waiting"
    await holder.rollback()
    await clients.one.value("update picture_queue.follow_up set due_at = '-infinity'")
    await clients.other.value("select picture_queue._do_due_steps(100, true)")
    assert (await clients.one.job(child["job_id"]))["status"] == "cancelled"


@pytest.mark.parametrize(
    "claim",
    [
        "select claim_jobs('held', array[$1], '{race-job}')",
        "select id from claim_next_job($1)",
    ],
)
async def test_a_claim_skips_the_jobs_of_a_locked_limit_key(clients, claim):
    key = clients.key(1)
    await clients.one.value("select set_limit($1, max_running => 1)", key)
    (limited,) = await clients.one.enqueue({"options": {"limit_keys": [key]}})
    (plain,) = await clients.one.enqueue({})
    holder = clients.one.connection.transaction()
    await holder.start()
    await clients.one.value("select picture_queue._lock_keys(array[$1])", key)
    answer = str(await clients.other.connection.fetchval(claim, clients.queue))
    if plain["job_id"] not in answer:  # claim_next_job may skip a job and return none
        answer = str(await clients.other.connection.fetchval(claim, clients.queue))
    assert limited["job_id"] not in answer
    await holder.rollback()
    assert (await clients.other.job(limited["job_id"]))["hold"] is None
    claimed = await clients.other.claim(2)
    assert limited["job_id"] in [job["id"] for job in claimed]
    await clients.other.report(claimed, "completed")


async def test_maintenance_does_not_wait_for_a_change_of_the_settings(clients):
    holder = clients.one.connection.transaction()
    await holder.start()
    await clients.one.value("select 1 from picture_queue.setting for update")
    assert "pruned" in await clients.other.value("select maintain_jobs(true)")
    await holder.rollback()


async def test_a_report_answers_busy_for_a_locked_job(clients):
    await clients.one.enqueue({}, {}, {})
    jobs = await clients.one.claim(3)
    held = jobs[1]
    holder = clients.other.connection.transaction()
    await holder.start()
    await clients.other.value(
        "select id from job_queue where id = $1::text::uuid for update", held["id"]
    )
    assert await asyncio.wait_for(clients.one.report(jobs, "completed"), 10) == ["ok", "busy", "ok"]
    with pytest.raises(asyncpg.PostgresError, match="PQ_BUSY"):
        item = {"job_id": held["id"], "lease_id": held["lease_id"], "outcome": "completed"}
        await clients.one.connection.fetchval("select report_jobs($1)", [item])
    await holder.rollback()
    assert await clients.one.report(jobs, "completed") == ["repeated", "ok", "repeated"]


async def test_a_heartbeat_keeps_the_lease_of_a_locked_job(clients):
    await clients.one.enqueue({})
    (job,) = await clients.one.claim()
    holder = clients.other.connection.transaction()
    await holder.start()
    await clients.other.value(
        "select id from job_queue where id = $1::text::uuid for update", job["id"]
    )
    leases = [{"job_id": job["id"], "lease_id": job["lease_id"]}]
    heartbeat = "select heartbeat_jobs($1, $2)"
    assert (await clients.one.value(heartbeat, clients.one.name, leases))["lost"] == []
    await clients.other.value(
        "update job_queue set lease_expires_at = '2000-01-01' where id = $1::text::uuid", job["id"]
    )
    await holder.commit()
    await clients.other.maintain()  # does not end the lease: the heartbeat was recorded
    assert await clients.one.report([job], "completed") == ["ok"]


async def test_pruning_does_not_wait_for_a_reader_of_the_archive(clients):
    await clients.one.value("""select set_setting('{"archive": true}')""")
    try:
        reader = clients.other.connection.transaction()
        await reader.start()
        await clients.other.rows("select * from picture_queue.archive limit 1")
        (job,) = await clients.one.enqueue({})
        await clients.one.report(await clients.one.claim(), "completed")
        await clients.one.value(
            "update job_queue set finished_at = '2001-02-03' where id = $1", UUID(job["job_id"])
        )
        done = await asyncio.wait_for(clients.one.value("select picture_queue.prune()"), 10)
        assert done["pruned"] >= 1
        await reader.rollback()
        partition = await clients.one.value(
            "select tableoid::regclass::text from picture_queue.archive where id = $1",
            UUID(job["job_id"]),
        )
        assert partition == "picture_queue.archive_2001_02"
        await clients.one.value("select picture_queue.prune()")  # drops the expired partition
    finally:
        await clients.one.value("""select set_setting('{"archive": null}')""")
