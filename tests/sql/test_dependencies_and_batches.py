"""Edge cases of dependencies and batches: failed parents, repeated calls, refused callbacks."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from .conftest import enqueue_items


async def enqueue_batch(db: Any, *items: dict[str, Any], callback: Any = None) -> UUID:
    jobs = [{"job_type": "sql-resize", "queue": db.queue, **item} for item in items]
    answer = await db.value("select enqueue_batch($1, $2)", jobs, callback)
    return UUID(answer["batch_id"])


async def enqueue_failed_job(db: Any) -> str:
    await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, "failed", error="no")
    return job["id"]


async def test_a_batch_counts_a_job_that_is_cancelled_when_enqueued(db):
    parent = await enqueue_failed_job(db)
    callback = {"job_type": "then", "queue": db.queue}
    batch_id = await enqueue_batch(db, {}, {"options": {"depends_on": [parent]}}, callback=callback)
    row = await db.value("select get_batch($1)", batch_id)
    assert (row["total"], row["cancelled"], row["open"]) == (2, 1, 1)
    assert row["callback_job_id"] is None


async def test_a_job_that_is_cancelled_when_enqueued_does_not_finish_its_batch(db):
    parent = await enqueue_failed_job(db)
    callback = {"job_type": "then", "queue": db.queue}
    batch_id = await enqueue_batch(db, {}, {}, callback=callback)
    (job,) = await db.claim()
    await db.report(job, "completed")
    await enqueue_items(db, {"options": {"depends_on": [parent], "batch_id": str(batch_id)}})
    row = await db.value("select get_batch($1)", batch_id)
    assert (row["total"], row["completed"], row["cancelled"], row["open"]) == (3, 1, 1, 1)
    assert row["callback_job_id"] is None


@pytest.mark.parametrize("outcome", [None, "completed", "failed"])
@pytest.mark.parametrize("key_kind", ["idempotency_key", "unique"])
async def test_a_child_waits_for_the_existing_job_that_its_parent_duplicates(db, key_kind, outcome):
    """The second call gives the parent a new id, but its key finds the existing job."""
    key = {"idempotency_key": "k"}
    if key_kind == "unique":
        states = ["pending", "processing", "completed", "failed"]
        key = {"options": {"unique": {"states": states}}}
    (first,) = await enqueue_items(db, {"max_attempts": 1, **key})
    if outcome:
        (job,) = await db.claim()
        await db.report(job, outcome)
    new_id = str(uuid4())
    parent, child = await enqueue_items(
        db, {"job_id": new_id, "max_attempts": 1, **key}, {"options": {"depends_on": [new_id]}}
    )
    assert parent == {"job_id": first["job_id"], "outcome": "existing"}
    row = await db.job(child["job_id"])
    if outcome is None:
        assert (row["status"], row["hold"]) == ("pending", "waiting")
        (job,) = await db.claim()
        assert job["id"] == first["job_id"]
        await db.report(job, "completed")
        row = await db.job(child["job_id"])
    expected = "cancelled" if outcome == "failed" else "pending"
    assert (row["status"], row["hold"]) == (expected, None)


@pytest.mark.parametrize("field", ["depends_on", "batch_id"])
async def test_a_callback_with_parents_or_a_batch_is_refused(db, field):
    value = [str(uuid4())] if field == "depends_on" else str(uuid4())
    callback = {"job_type": "then", "options": {field: value}}
    refused = await db.refusal("select enqueue_batch('[]', $1)", callback)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert field in refused.detail


async def test_a_refused_callback_does_not_delay_the_last_job(db):
    other_job = await db.enqueue("other")
    callback = {"job_type": "then", "queue": db.queue, "job_id": str(other_job)}
    batch_id = await enqueue_batch(db, {}, callback=callback)
    (job,) = await db.claim()
    assert (await db.report(job, "completed"))["outcome"] == "ok"
    row = await db.value("select get_batch($1)", batch_id)
    assert (row["completed"], row["callback_job_id"]) == (1, None)
    assert row["finished_at"] is not None
    assert row["callback_error"].startswith("PQ_CONFLICT")


async def test_a_retried_child_waits_for_its_parents_again(db):
    parent = await db.enqueue()
    child = await db.enqueue(options={"depends_on": [str(parent)]})
    await db.value("select cancel_job($1)", child)
    await db.value("select retry_job($1)", child)
    assert (await db.job(child))["hold"] == "waiting"
    (job,) = await db.claim(10)
    assert job["id"] == str(parent)
    await db.report(job, "completed")
    assert [job["id"] for job in await db.claim(10)] == [str(child)]


async def test_children_retried_by_filter_wait_for_their_parents_again(db):
    parent = await db.enqueue()
    child = await db.enqueue(options={"depends_on": [str(parent)], "tags": ["child"]})
    filters = {"queue": db.queue, "tag": "child"}
    await db.value("select change_jobs('cancel', $1)", filters)
    await db.value("select change_jobs('retry', $1)", filters | {"status": "cancelled"})
    assert (await db.job(child))["hold"] == "waiting"
