"""Retries of jobs whose parents failed or were cancelled, and of the steps of a chain."""

from uuid import UUID, uuid4

import pytest

from tests.databases import connect

from .conftest import Database, enqueue_items
from .test_generation_batches import REMOVE, START, UPSCALE, claim, complete, use_own_queue

RETRY = "select retry_job($1)"


async def fail_chain(db: Database) -> list[str]:
    """Start a chain of three steps, let the first one fail, and return the ids of the jobs."""
    await use_own_queue(db)
    chain = await db.value(START, "a cat", {"then": [UPSCALE, REMOVE]})
    (job,) = await claim(db)
    await db.report(job, "failed", error="no", retryable=False)
    return [chain["job_id"], *(step["job_id"] for step in chain["steps"])]


async def fail_parent(db: Database, policy: str = "fail") -> tuple[str, str]:
    """Enqueue a parent and a child, let the parent fail, and return their ids."""
    parent, child = str(uuid4()), str(uuid4())
    options = {"depends_on": [parent], "on_parent_failure": policy}
    await enqueue_items(db, {"job_id": parent}, {"job_id": child, "options": options})
    (job,) = await db.claim(10)
    await db.report(job, "failed", error="no", retryable=False)
    return parent, child


async def states(db: Database, *ids: str) -> list[tuple[str, str | None]]:
    rows = [await db.job(job) for job in ids]
    return [(row["status"], row["hold"]) for row in rows]


WAITING = ("pending", "waiting")
READY = ("pending", None)


async def test_the_steps_of_a_retried_chain_run_one_after_the_other(db):
    ids = await fail_chain(db)
    for job_id in ids:
        await db.value(RETRY, UUID(job_id))
    assert await states(db, *ids) == [READY, WAITING, WAITING]
    for job_id in ids:
        (job,) = await claim(db)
        assert job["id"] == job_id
        await complete(db, job)
    assert [status for status, _ in await states(db, *ids)] == ["completed"] * 3


async def test_one_bulk_retry_restores_the_order_of_a_chain(db):
    ids = await fail_chain(db)
    await db.value(RETRY, UUID(ids[0]))
    await db.value("select cancel_job($1)", UUID(ids[0]))
    answer = await db.value(
        "select change_jobs('retry', $1)", {"queue": db.queue, "status": "cancelled"}
    )
    assert (answer["changed"], answer["more"]) == (3, False)
    assert await states(db, *ids) == [READY, WAITING, WAITING]


async def test_one_bulk_retry_retries_parent_and_child(db):
    parent, child = await fail_parent(db)
    assert [status for status, _ in await states(db, parent, child)] == ["failed", "failed"]
    answer = await db.value("select change_jobs('retry', $1)", {"queue": db.queue})
    assert (answer["changed"], answer["more"]) == (2, False)
    assert await states(db, parent, child) == [READY, WAITING]


async def test_a_retry_names_the_parent_that_failed(db):
    parent, child = await fail_parent(db)
    refused = await db.refusal(RETRY, UUID(child))
    assert refused.message.startswith("PQ_CONFLICT")
    assert refused.detail == f"job {child} depends on job {parent}, which is failed"
    assert f"retry job {parent} first" in refused.hint
    await db.value(RETRY, UUID(parent))
    await db.value(RETRY, UUID(child))
    assert await states(db, parent, child) == [READY, WAITING]


async def test_a_bulk_retry_leaves_the_children_of_failed_parents(db):
    parent, child = await fail_parent(db, "cancel")
    answer = await db.value(
        "select change_jobs('retry', $1)", {"queue": db.queue, "status": "cancelled"}
    )
    assert answer == {"matched": 1, "changed": 0, "more": False}
    assert await states(db, parent, child) == [("failed", None), ("cancelled", None)]


async def test_a_child_that_was_cancelled_before_its_parent_failed_is_refused(db):
    parent = await db.enqueue()
    child = await db.enqueue(options={"depends_on": [str(parent)]})
    await db.value("select cancel_job($1)", child)
    (job,) = await db.claim(10)
    await db.report(job, "failed", error="no", retryable=False)
    refused = await db.refusal(RETRY, child)
    assert refused.message.startswith("PQ_CONFLICT")


async def test_a_retried_child_fails_again_with_its_parent(db):
    parent, child = await fail_parent(db)
    await db.value("select change_jobs('retry', $1)", {"queue": db.queue})
    (job,) = await db.claim(10)
    assert job["id"] == parent
    await db.report(job, "failed", error="no", retryable=False)
    assert [status for status, _ in await states(db, parent, child)] == ["failed", "failed"]
    refused = await db.refusal(RETRY, UUID(child))
    assert refused.message.startswith("PQ_CONFLICT")


@pytest.mark.parametrize("is_parent_retried", [False, True])
async def test_a_child_that_runs_anyway_waits_only_for_an_unfinished_parent(db, is_parent_retried):
    parent, child = await fail_parent(db, "run")
    (job,) = await db.claim(10)
    assert job["id"] == child
    await db.report(job, "failed", error="no", retryable=False)
    if is_parent_retried:
        await db.value(RETRY, UUID(parent))
    await db.value(RETRY, UUID(child))
    expected = [READY, WAITING] if is_parent_retried else [("failed", None), READY]
    assert await states(db, parent, child) == expected


async def test_a_child_whose_failed_parent_was_discarded_can_be_retried(db):
    parent, child = await fail_parent(db)
    await db.value("select change_jobs('discard', $1)", {"job_ids": [parent]})
    await db.value(RETRY, UUID(child))
    assert await states(db, child) == [READY]


async def test_a_parent_that_finishes_during_the_retry_frees_its_child(own_database):
    """The parent ends in a transaction that commits after the retry."""
    first, second = await connect(own_database), await connect(own_database)
    try:
        db, other = Database(first), Database(second)
        other.queue = db.queue
        parent, child = await fail_parent(db)
        await db.value(RETRY, UUID(parent))
        (job,) = await db.claim(10)
        transaction = second.transaction()
        await transaction.start()
        await other.report(job, "completed")
        await db.value(RETRY, UUID(child))
        assert await states(db, child) == [WAITING]
        await transaction.commit()
        await db.maintain()
        assert await states(db, child) == [READY]
    finally:
        await first.close()
        await second.close()


LOCK = "select from job_queue where queue = $1 order by seq limit $2 for update"
CHANGES = {
    "cancel": "select change_jobs('cancel', $1)",
    "retry": "select change_jobs('retry', $1)",
    "discard": "select change_jobs('discard', $1)",
    "purge": "select purge_queue($1::jsonb ->> 'queue')",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_bulk_change_neither_misses_locked_jobs_nor_repeats_for_ever(own_database, change):
    """With a locked job left, more is true; with only locked jobs left, the call is refused."""
    first, second = await connect(own_database), await connect(own_database)
    try:
        db = Database(first)
        for _ in range(3):
            await db.enqueue(max_attempts=1)
        if change in ("retry", "discard"):
            for job in await db.claim(3):
                await db.report(job, "failed", error="no")
        transaction = second.transaction()
        await transaction.start()
        await second.execute(LOCK, db.queue, 1)
        filters = {"queue": db.queue}
        answer = await db.value(CHANGES[change], filters)
        assert (answer["changed"], answer["more"]) == (2, True)
        refused = await db.refusal(CHANGES[change], filters)
        assert refused.message.startswith("PQ_BUSY")
        assert "locked" in refused.detail
        await transaction.rollback()
        answer = await db.value(CHANGES[change], filters)
        assert (answer["changed"], answer["more"]) == (1, False)
    finally:
        await first.close()
        await second.close()


async def test_a_bulk_retry_that_always_fails_ends(db):
    """A trigger of the project refuses every retry."""
    for _ in range(2):
        await db.enqueue(max_attempts=1)
    for job in await db.claim(2):
        await db.report(job, "failed", error="no")
    await db.run("""
        create function pg_temp.refuse() returns trigger language plpgsql as $$
        begin raise exception 'no'; end $$;
        create trigger refuse before update on job_queue for each row
        when (old.status = 'failed') execute function pg_temp.refuse()""")
    filters = {"queue": db.queue, "limit": 1}
    answers = [await db.value(CHANGES["retry"], filters) for _ in range(3)]
    assert [(answer["changed"], answer["more"]) for answer in answers] == [
        (0, True), (0, False), (0, False)
    ]  # fmt: skip


async def test_jobs_that_cannot_be_retried_do_not_hide_others(db):
    """A call takes one job; the children of the failed parent come first in the table."""
    parent, _ = await fail_parent(db, "cancel")
    other = await db.enqueue()
    await db.value("select cancel_job($1)", other)
    filters = {"queue": db.queue, "status": "cancelled", "limit": 1}
    answer = await db.value(CHANGES["retry"], filters)
    assert (answer["matched"], answer["changed"], answer["more"]) == (2, 1, False)
    assert await states(db, str(other), parent) == [READY, ("failed", None)]
