"""receive_prediction: webhooks that are repeated, late, out of order, or of other predictions."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from .test_generations import start_and_claim_generation

RECEIVE = "select receive_prediction($1, $2, $3, $4, $5)"


async def begin_prediction(db: Any) -> tuple[dict[str, Any], UUID]:
    """Start, claim and begin a generation; return its job and the id of its prediction row."""
    _, job = await start_and_claim_generation(db)
    begun = await db.value(
        "select begin_prediction($1, $2)", UUID(job["id"]), UUID(job["lease_id"])
    )
    return job, UUID(begun["prediction"]["id"])


async def record(db: Any, job: dict[str, Any], prediction: UUID, prediction_id: str) -> None:
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    await db.run("select record_prediction($1, $2, $3, $4)", *ids, prediction, prediction_id)


async def receive(
    db: Any, prediction: UUID, prediction_id: str, status: str, *progress: Any
) -> str:
    arguments = [*progress, None, None][:2]
    return (await db.value(RECEIVE, prediction, prediction_id, status, *arguments))["outcome"]


async def park(db: Any, job: dict[str, Any], prediction: UUID) -> None:
    event = f"prediction:{prediction}"
    parked = await db.report(job, "parked", delay_seconds=600, event=event)
    assert parked["outcome"] == "ok"


async def read_prediction(db: Any, prediction: UUID) -> dict[str, Any]:
    return (await db.rows("select * from picture_queue.prediction where id = $1", prediction))[0]


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled", "aborted"])
async def test_the_end_of_a_prediction_wakes_its_parked_job(db, status):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    await park(db, job, prediction)
    received = await db.value(RECEIVE, prediction, "p1", status, None, None)
    assert received == {"outcome": "applied", "woken": 1}
    woken = await db.job(job["id"])
    assert (woken["status"], woken["hold"], woken["event"]) == ("pending", None, status)


async def test_a_job_that_parks_after_its_webhook_arrived_is_woken(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    assert await receive(db, prediction, "p1", "succeeded") == "applied"
    await park(db, job, prediction)
    assert (await db.job(job["id"]))["hold"] is None


async def test_a_webhook_before_the_answer_of_the_create_call_records_the_id(db):
    job, prediction = await begin_prediction(db)
    assert await receive(db, prediction, "p1", "starting") == "applied"
    assert (await read_prediction(db, prediction))["prediction_id"] == "p1"
    await record(db, job, prediction, "p1")  # the late answer changes nothing
    assert (await read_prediction(db, prediction))["state"] == "created"


async def test_an_older_or_repeated_status_changes_nothing(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    assert await receive(db, prediction, "p1", "processing") == "applied"
    for status in ("starting", "processing"):
        assert await receive(db, prediction, "p1", status) == "repeated"
    assert await receive(db, prediction, "p1", "succeeded") == "applied"
    for status in ("starting", "succeeded", "failed"):
        assert await receive(db, prediction, "p1", status) == "repeated"
    assert (await read_prediction(db, prediction))["status"] == "succeeded"


async def test_a_repeated_end_does_not_wake_a_job_that_parked_again(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    await park(db, job, prediction)
    assert await receive(db, prediction, "p1", "succeeded") == "applied"
    (again,) = await db.claim(1, "generate-image")
    await park(db, again, prediction)
    assert await receive(db, prediction, "p1", "succeeded") == "repeated"
    assert (await db.job(job["id"]))["hold"] == "parked"


async def test_a_webhook_of_another_prediction_or_of_an_unknown_or_ended_prediction_is_ignored(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    assert await receive(db, prediction, "p2", "succeeded") == "ignored"
    assert await receive(db, uuid4(), "p1", "succeeded") == "ignored"
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    await db.run("select finish_prediction($1, $2, $3, 'succeeded')", *ids, prediction)
    before = await read_prediction(db, prediction)
    assert await receive(db, prediction, "p1", "failed") == "ignored"
    assert await read_prediction(db, prediction) == before


async def test_a_prediction_id_that_another_prediction_has_is_ignored(db):
    first, first_prediction = await begin_prediction(db)
    _, second_prediction = await begin_prediction(db)
    await record(db, first, first_prediction, "p1")
    assert await receive(db, second_prediction, "p1", "processing") == "ignored"
    assert (await read_prediction(db, second_prediction))["prediction_id"] is None


async def test_the_progress_of_a_parked_job_never_decreases(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    await park(db, job, prediction)
    for percent in (40, 20, 60):
        await receive(db, prediction, "p1", "processing", percent, f"step {percent}")
    shown = await db.job(job["id"])
    assert (shown["progress"], shown["message"], shown["hold"]) == (60, "step 60", "parked")


async def test_a_webhook_does_not_change_the_progress_of_a_running_job(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    await receive(db, prediction, "p1", "processing", 40, "step 40")
    assert (await db.job(job["id"]))["progress"] == 0


async def test_the_event_of_a_job_that_did_not_park_is_deleted_when_its_prediction_ends(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    await receive(db, prediction, "p1", "succeeded")
    count = (
        "select count(*) from picture_queue.external_event where name = 'prediction:' || $1::text"
    )
    assert await db.value(count, str(prediction)) == 1
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    await db.run("select finish_prediction($1, $2, $3, 'succeeded')", *ids, prediction)
    assert await db.value(count, str(prediction)) == 0


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (("p1", "queued", None), "status is"),
        (("p1", None, None), "status is null"),
        (("", "starting", None), "prediction_id"),
        ((None, "starting", None), "prediction_id"),
        (("p" * 201, "starting", None), "prediction_id"),
        (("p1", "starting", 101), "progress is 101, not 0 to 100"),
    ],
)
async def test_an_invalid_argument_is_refused_with_its_name(db, arguments, detail):
    _, prediction = await begin_prediction(db)
    refused = await db.refusal(RECEIVE, prediction, *arguments, None)
    assert (refused.sqlstate, refused.message.split(":")[0]) == ("PT400", "PQ_INVALID_ARGUMENT")
    assert refused.detail.startswith(detail)


async def test_a_worker_sees_how_many_predictions_of_the_project_are_running(db):
    await begin_prediction(db)
    job, _ = await begin_prediction(db)
    begun = await db.value(
        "select begin_prediction($1, $2)", UUID(job["id"]), UUID(job["lease_id"])
    )
    assert begun["running"] >= 2


@pytest.mark.parametrize("outcome", ["snoozed", "released"])
async def test_a_cancelled_job_whose_prediction_runs_is_claimed_once_more(db, outcome):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    delay = {"delay_seconds": 600} if outcome == "snoozed" else {}
    assert (await db.report(job, outcome, **delay))["outcome"] == "ok"
    await db.value("select cancel_job($1)", UUID(job["id"]))
    waiting = await db.job(job["id"])
    assert (waiting["status"], waiting["hold"]) == ("pending", None)
    (again,) = await db.claim(1, "generate-image")
    assert again["cancel_requested_at"] is not None
    assert (await db.report(again, "cancelled"))["outcome"] == "ok"
    assert (await db.job(job["id"]))["status"] == "cancelled"


@pytest.mark.parametrize("outcome", ["snoozed", "released"])
async def test_a_purged_job_whose_prediction_runs_is_claimed_once_more(db, outcome):
    """A purge must not end the job, because its prediction would run on at the provider."""
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    plain = await db.enqueue()
    delay = {"delay_seconds": 600} if outcome == "snoozed" else {}
    assert (await db.report(job, outcome, **delay))["outcome"] == "ok"
    purge = "select purge_queue($1)"
    queue = (await db.job(job["id"]))["queue"]
    await db.run("update job_queue set queue = $1 where id = $2", queue, plain)
    await db.value(purge, queue)
    waiting, ended = await db.job(job["id"]), await db.job(plain)
    assert (waiting["status"], waiting["hold"]) == ("pending", None)
    assert (ended["status"], ended["error"]) == ("cancelled", "The queue was purged.")
    answer = await db.value(purge, queue)  # It does not purge the same job again.
    assert (answer["changed"], answer["more"]) == (0, False)
    (again,) = await db.claim(1, "generate-image")
    assert again["cancel_requested_at"] is not None
    assert (await db.report(again, "cancelled"))["outcome"] == "ok"
    assert (await db.job(job["id"]))["status"] == "cancelled"


async def test_a_cancelled_job_whose_prediction_has_ended_is_cancelled_at_once(db):
    job, prediction = await begin_prediction(db)
    await record(db, job, prediction, "p1")
    ids = (UUID(job["id"]), UUID(job["lease_id"]))
    await db.run("select finish_prediction($1, $2, $3, 'failed')", *ids, prediction)
    await db.report(job, "snoozed", delay_seconds=600)
    await db.value("select cancel_job($1)", UUID(job["id"]))
    assert (await db.job(job["id"]))["status"] == "cancelled"
