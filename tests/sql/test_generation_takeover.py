"""Generations whose worker dies after a cancel request, or before it reports an outcome."""

from uuid import UUID

import pytest

from .test_generations import MODEL, START

BEGIN = "select begin_prediction($1, $2)"
RECORD = "select record_prediction($1, $2, $3, $4)"
FINISH = "select finish_prediction($1, $2, $3, $4)"
LEASE = 5.0  # seconds


async def start_and_claim(db, prediction_id="p1"):
    """Start a generation, claim its job, and record a prediction unless its id is None."""
    await db.value(
        "select register_worker('w1', array[$1], $2)",
        db.queue,
        {"generate-image": {"queue": db.queue}},
    )
    await db.value(START, "a cat", MODEL, {}, {})
    job = await claim(db)
    begun = await db.value(BEGIN, *ids_of(job))
    row_id = UUID(begun["prediction"]["id"])
    if prediction_id is not None:
        await db.run(RECORD, *ids_of(job), row_id, f"{db.queue}-{prediction_id}")
    return job, row_id


async def claim(db):
    (job,) = await db.claim(1, "generate-image", lease=LEASE)
    return job


def ids_of(job):
    return UUID(job["id"]), UUID(job["lease_id"])


async def die_after_cancel(db, job):
    await db.value("select cancel_job($1)", UUID(job["id"]))
    await db.pass_time(LEASE + 1)


async def state_of(db, row_id):
    return await db.value("select state from picture_queue.prediction where id = $1", row_id)


@pytest.mark.parametrize("prediction_id", [None, "p1"], ids=["creating", "created"])
async def test_a_cancelled_generation_is_claimed_again_if_its_worker_dies(db, prediction_id):
    job, row_id = await start_and_claim(db, prediction_id)
    await die_after_cancel(db, job)
    again = await claim(db)
    assert (again["id"], again["attempt"]) == (job["id"], 1)
    assert again["cancel_requested_at"] is not None
    resumed = await db.value(BEGIN, *ids_of(again))
    assert (resumed["prediction"]["id"], resumed["resumed"]) == (str(row_id), True)
    await db.run(FINISH, *ids_of(again), row_id, "canceled")
    assert (await db.report(again, "cancelled"))["status"] == "cancelled"


async def test_a_cancelled_generation_without_a_live_prediction_is_cancelled_at_once(db):
    job, row_id = await start_and_claim(db)
    await db.run(FINISH, *ids_of(job), row_id, "canceled")
    await die_after_cancel(db, job)
    assert (await db.job(job["id"]))["status"] == "cancelled"


async def test_a_cancelled_generation_is_cancelled_if_its_workers_use_up_its_attempts(db):
    job, row_id = await start_and_claim(db)
    await db.value("select cancel_job($1)", UUID(job["id"]))
    attempts = []
    while (await db.job(job["id"]))["status"] == "processing":
        await db.pass_time(LEASE + 1)
        if (await db.job(job["id"]))["status"] == "pending":
            again = await claim(db)
            attempts.append(again["attempt"])
            # A heartbeat confirms the start.
            await db.value(
                "select heartbeat_jobs('w1', $1)",
                [{"job_id": again["id"], "lease_id": again["lease_id"]}],
            )
    assert attempts == [1, 2, 3]
    assert (await db.job(job["id"]))["status"] == "cancelled"
    assert await state_of(db, row_id) == "created"


@pytest.mark.parametrize("state", ["failed", "lost"])
async def test_a_prediction_whose_end_was_not_reported_is_resumed(db, state):
    job, row_id = await start_and_claim(db)
    await db.run(FINISH, *ids_of(job), row_id, state)
    await db.pass_time(LEASE + 1)  # the worker died before its report
    again = await claim(db)
    resumed = await db.value(BEGIN, *ids_of(again))
    assert (resumed["prediction"]["id"], resumed["resumed"]) == (str(row_id), True)
    assert resumed["prediction"]["state"] == "created"
    await db.run(FINISH, *ids_of(again), row_id, state)
    assert await state_of(db, row_id) == state
    # Within the same attempt, the row is not resumed again.
    other = await db.value(BEGIN, *ids_of(again))
    assert (other["prediction"]["id"] != str(row_id), other["resumed"]) == (True, False)


async def test_a_prediction_whose_failure_was_reported_is_not_resumed(db):
    job, row_id = await start_and_claim(db)
    await db.run(FINISH, *ids_of(job), row_id, "failed")
    await db.report(job, "failed", delay_seconds=0)
    await db.pass_time(1)
    again = await claim(db)
    begun = await db.value(BEGIN, *ids_of(again))
    assert (begun["prediction"]["id"] != str(row_id), begun["resumed"]) == (True, False)
    # The worker of the second attempt dies. Its row is resumed, not the reported one.
    await db.pass_time(LEASE + 1)
    last = await db.value(BEGIN, *ids_of(await claim(db)))
    assert (last["prediction"]["id"], last["resumed"]) == (begun["prediction"]["id"], True)


async def test_a_refused_create_call_is_not_resumed(db):
    job, row_id = await start_and_claim(db, prediction_id=None)
    await db.run(FINISH, *ids_of(job), row_id, "failed")
    await db.pass_time(LEASE + 1)
    begun = await db.value(BEGIN, *ids_of(await claim(db)))
    assert (begun["prediction"]["id"] != str(row_id), begun["resumed"]) == (True, False)


async def test_begin_prediction_returns_the_paths_of_all_saved_files(db):
    job, _ = await start_and_claim(db)
    image = {"n": 1, "path": "u/1.webp", "mime_type": "image/webp"}
    images = [{**image, "thumbnail_path": "u/1.thumbnail.webp"}, {**image, "n": 2, "path": "u/2"}]
    await db.run("select save_images($1, $2, $3)", *ids_of(job), images)
    begun = await db.value(BEGIN, *ids_of(job))
    assert begun["saved_paths"] == ["u/1.thumbnail.webp", "u/1.webp", "u/2"]
