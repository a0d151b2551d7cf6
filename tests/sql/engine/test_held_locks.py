"""Calls while another open transaction holds a lock on a row or key that they use."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

pytestmark = pytest.mark.timeout(120)


async def wait_until_blocked(observer: Any, client: Any) -> None:
    """Return as soon as the connection of `client` waits for a lock."""
    pid = client.connection.get_server_pid()
    async with asyncio.timeout(20):
        while True:
            if await observer.value("select cardinality(pg_blocking_pids($1)) > 0", pid):
                return
            await asyncio.sleep(0.01)


async def test_a_heartbeat_does_not_wait_for_a_lock_on_a_job(clients):
    """The lease of the locked job and that of the other job are extended."""
    await clients.first.enqueue({}, {})
    parent, other = await clients.first.claim(2)
    holder = clients.second.connection.transaction()
    await holder.start()
    await clients.second.connection.execute(
        "select from job_queue where id = $1 for update", parent["id"]
    )
    leases = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in (parent, other)]
    before = (await clients.first.job(other["id"]))["lease_expires_at"]
    answer = await asyncio.wait_for(
        clients.first.value("select heartbeat_jobs($1, $2)", clients.first.name, leases), 10
    )
    assert answer == {"cancel": [], "lost": []}
    assert (await clients.first.job(other["id"]))["lease_expires_at"] > before
    await holder.commit()
    await clients.first.report([parent, other], "completed")
    await clients.first.report(await clients.first.claim(), "completed")


async def test_a_job_can_be_added_to_a_batch_while_its_parent_ends(clients):
    """The enqueue and the report do not wait for each other, and the batch counts both."""
    batch = uuid4()
    item = {"job_type": "race-job", "queue": clients.queue}
    await clients.first.value("select enqueue_batch($1, null, $2)", [item, item], batch)
    parent, last = await clients.first.claim(2)
    ending = clients.first.connection.transaction()
    await ending.start()
    await clients.first.report([parent], "completed")  # the report locks the batch's row
    options = {"depends_on": [parent["id"]]}
    (child,) = await asyncio.wait_for(clients.second.enqueue({"options": options}), 10)
    await ending.commit()
    adding = clients.second.connection.transaction()
    await adding.start()
    (added,) = await clients.second.enqueue({"options": {"batch_id": str(batch), **options}})
    await asyncio.wait_for(clients.first.report([last], "completed"), 10)
    await adding.commit()
    await clients.first.maintain()
    row = await clients.first.value("select get_batch($1)", batch)
    assert (row["total"], row["completed"], row["finished_at"]) == (3, 2, None)
    jobs = await clients.first.claim(5)
    assert {job["id"] for job in jobs} == {child["job_id"], added["job_id"]}
    await clients.first.report(jobs, "completed")
    assert (await clients.first.value("select get_batch($1)", batch))["finished_at"] is not None


@pytest.mark.parametrize("on_conflict", ["replace", "debounce"])
async def test_a_job_is_created_if_its_duplicate_ends_during_the_enqueue(clients, on_conflict):
    unique = {"by": ["n"], "on_conflict": on_conflict}
    await clients.first.enqueue({"payload": {"n": 1, "v": 1}, "options": {"unique": unique}})
    ending = clients.first.connection.transaction()
    await ending.start()
    await clients.first.report(await clients.first.claim(), "completed")
    enqueueing = asyncio.create_task(
        clients.second.enqueue({"payload": {"n": 1, "v": 2}, "options": {"unique": unique}})
    )
    await wait_until_blocked(clients.members[2], clients.second)
    await ending.commit()
    ((answer,), jobs) = (await enqueueing, await clients.first.claim())
    assert answer["outcome"] == "created"
    assert [job["payload"]["v"] for job in jobs] == [2]
    await clients.first.report(jobs, "completed")


@pytest.mark.parametrize("on_conflict", ["replace", "debounce"])
async def test_a_job_is_created_if_its_duplicate_ends_before_it_is_locked(clients, on_conflict):
    """The enqueue reads a pending duplicate; when it gets the lock, the duplicate is cancelled."""
    unique = {"by": ["n"], "on_conflict": on_conflict}
    await clients.first.enqueue({"payload": {"n": 1, "v": 1}, "options": {"unique": unique}})
    jobs = await clients.first.claim()
    await clients.first.report(jobs, "failed", delay_seconds=0)  # the job is pending again
    holder = clients.first.connection.transaction()
    await holder.start()
    await clients.first.value(
        "select id from job_queue where id = $1::text::uuid for update", jobs[0]["id"]
    )
    enqueueing = asyncio.create_task(
        clients.second.enqueue({"payload": {"n": 1, "v": 2}, "options": {"unique": unique}})
    )
    await wait_until_blocked(clients.members[2], clients.second)
    await clients.first.value("select cancel_job($1)", UUID(jobs[0]["id"]))
    await holder.commit()
    (answer,) = await enqueueing
    assert answer["outcome"] == "created"
    jobs = await clients.first.claim()
    assert [job["payload"]["v"] for job in jobs] == [2]
    await clients.first.report(jobs, "completed")


async def test_a_claim_repeated_while_the_first_still_runs_returns_the_same_jobs(clients):
    await clients.first.enqueue({}, {})
    request = uuid4()

    async def claim(client: Any) -> list[str]:
        jobs = await client.value(
            "select claim_jobs('twin', $1, '{race-job}', 1, 30, $2)", [clients.queue], request
        )
        return [job["id"] for job in jobs]

    first = clients.first.connection.transaction()
    await first.start()
    claimed = await claim(clients.first)
    again = asyncio.create_task(claim(clients.second))
    waiting = asyncio.create_task(wait_until_blocked(clients.members[2], clients.second))
    await asyncio.wait({again, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    await first.commit()
    assert await again == claimed
    assert await clients.first.count_running() == 1


async def test_a_cancel_does_not_wait_for_a_locked_child(clients):
    (parent,) = await clients.first.enqueue({})
    (child,) = await clients.first.enqueue({"options": {"depends_on": [parent["job_id"]]}})
    holder = clients.first.connection.transaction()
    await holder.start()
    await clients.first.value(
        "select id from job_queue where id = $1::text::uuid for update", child["job_id"]
    )
    answer = await asyncio.wait_for(
        clients.second.value("select cancel_job($1)", UUID(parent["job_id"])), 10
    )
    assert answer["status"] == "cancelled"
    await holder.rollback()
    await clients.second.maintain()
    assert (await clients.first.job(child["job_id"]))["status"] == "cancelled"


async def test_maintenance_postpones_a_locked_child(clients):
    (parent,) = await clients.first.enqueue({"max_attempts": 1})
    (child,) = await clients.first.enqueue({"options": {"depends_on": [parent["job_id"]]}})
    await clients.first.claim()
    await clients.first.value(
        "update job_queue set lease_expires_at = '2000-01-01' where id = $1::text::uuid",
        parent["job_id"],
    )
    holder = clients.first.connection.transaction()
    await holder.start()
    await clients.first.value(
        "select id from job_queue where id = $1::text::uuid for update", child["job_id"]
    )
    await clients.second.value("select picture_queue._do_due_steps(100, true)")
    assert (await clients.second.job(parent["job_id"]))["status"] == "failed"
    assert (await clients.second.job(child["job_id"]))["hold"] == "waiting"
    await holder.rollback()
    await clients.first.value("update picture_queue.follow_up set due_at = '-infinity'")
    await clients.second.value("select picture_queue._do_due_steps(100, true)")
    assert (await clients.first.job(child["job_id"]))["status"] == "cancelled"


@pytest.mark.parametrize(
    "claim",
    [
        "select claim_jobs('held', array[$1], '{race-job}')",
        "select id from claim_next_job($1)",
    ],
)
async def test_a_claim_skips_the_jobs_of_a_locked_limit_key(clients, claim):
    key = clients.key(1)
    await clients.first.value("select set_limit($1, max_running => 1)", key)
    (limited,) = await clients.first.enqueue({"options": {"limit_keys": [key]}})
    (plain,) = await clients.first.enqueue({})
    holder = clients.first.connection.transaction()
    await holder.start()
    await clients.first.value("select picture_queue._lock_keys(array[$1])", key)
    answer = str(await clients.second.connection.fetchval(claim, clients.queue))
    if plain["job_id"] not in answer:  # claim_next_job may skip a job and return none
        answer = str(await clients.second.connection.fetchval(claim, clients.queue))
    assert limited["job_id"] not in answer
    await holder.rollback()
    assert (await clients.second.job(limited["job_id"]))["hold"] is None
    claimed = await clients.second.claim(2)
    assert limited["job_id"] in [job["id"] for job in claimed]
    await clients.second.report(claimed, "completed")


async def test_maintenance_does_not_wait_for_a_change_of_the_settings(clients):
    holder = clients.first.connection.transaction()
    await holder.start()
    await clients.first.value("select 1 from picture_queue.setting for update")
    assert "pruned" in await clients.second.value("select maintain_jobs(true)")
    await holder.rollback()


async def test_a_report_answers_busy_for_a_locked_job(clients):
    await clients.first.enqueue({}, {}, {})
    jobs = await clients.first.claim(3)
    held = jobs[1]
    holder = clients.second.connection.transaction()
    await holder.start()
    await clients.second.value(
        "select id from job_queue where id = $1::text::uuid for update", held["id"]
    )
    assert await asyncio.wait_for(clients.first.report(jobs, "completed"), 10) == [
        "ok",
        "busy",
        "ok",
    ]
    with pytest.raises(asyncpg.PostgresError, match="PQ_BUSY"):
        item = {"job_id": held["id"], "lease_id": held["lease_id"], "outcome": "completed"}
        await clients.first.connection.fetchval("select report_jobs($1)", [item])
    await holder.rollback()
    assert await clients.first.report(jobs, "completed") == ["repeated", "ok", "repeated"]


async def test_a_heartbeat_keeps_the_lease_of_a_locked_job(clients):
    await clients.first.enqueue({})
    (job,) = await clients.first.claim()
    holder = clients.second.connection.transaction()
    await holder.start()
    await clients.second.value(
        "select id from job_queue where id = $1::text::uuid for update", job["id"]
    )
    leases = [{"job_id": job["id"], "lease_id": job["lease_id"]}]
    heartbeat = "select heartbeat_jobs($1, $2)"
    assert (await clients.first.value(heartbeat, clients.first.name, leases))["lost"] == []
    await clients.second.value(
        "update job_queue set lease_expires_at = '2000-01-01' where id = $1::text::uuid", job["id"]
    )
    await holder.commit()
    await clients.second.maintain()  # does not end the lease: the heartbeat was recorded
    assert await clients.first.report([job], "completed") == ["ok"]


async def test_pruning_does_not_wait_for_a_reader_of_the_archive(clients):
    await clients.first.value("""select set_setting('{"archive": true}')""")
    try:
        reader = clients.second.connection.transaction()
        await reader.start()
        await clients.second.rows("select * from picture_queue.archive limit 1")
        (job,) = await clients.first.enqueue({})
        await clients.first.report(await clients.first.claim(), "completed")
        await clients.first.value(
            "update job_queue set finished_at = '2001-02-03' where id = $1", UUID(job["job_id"])
        )
        done = await asyncio.wait_for(clients.first.value("select picture_queue.prune()"), 10)
        assert done["pruned"] >= 1
        await reader.rollback()
        partition = await clients.first.value(
            "select tableoid::regclass::text from picture_queue.archive where id = $1",
            UUID(job["job_id"]),
        )
        assert partition == "picture_queue.archive_2001_02"
        await clients.first.value("select picture_queue.prune()")  # drops the expired partition
    finally:
        await clients.first.value("""select set_setting('{"archive": null}')""")
