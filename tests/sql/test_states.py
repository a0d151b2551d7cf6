"""The state machine in SQL: permitted and refused transitions."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

TERMINAL = ("completed", "failed", "cancelled")


async def test_a_new_job_is_pending_and_claimed_under_a_lease(db):
    job_id = await db.enqueue(payload={"path": "a.png"})
    (claimed,) = await db.claim()
    assert claimed["id"] == str(job_id)
    assert claimed["payload"] == {"path": "a.png"}
    assert claimed["timeout_seconds"] == 600
    job = await db.job(job_id)
    assert (job["status"], job["attempt"], job["worker"]) == ("processing", 1, "w1")
    assert job["lease_expires_at"] > datetime.now(UTC)


async def test_claims_are_ordered_by_priority_and_age(db):
    ids = [await db.enqueue(priority=priority) for priority in (0, 5, 0, 5)]
    claimed = [UUID(job["id"]) for job in await db.claim(10)]
    assert claimed == [ids[1], ids[3], ids[0], ids[2]]


async def test_a_claim_returns_only_job_types_of_the_worker(db):
    other = await db.enqueue("other")
    own = await db.enqueue("sql-resize")
    assert [job["id"] for job in await db.claim(10)] == [str(own)]
    assert (await db.job(other))["status"] == "pending"


async def test_a_repeated_claim_returns_the_same_jobs(db):
    for _ in range(3):
        await db.enqueue()
    request = uuid4()
    first = await db.claim(2, request_id=request)
    assert [j["id"] for j in await db.claim(2, request_id=request)] == [j["id"] for j in first]
    assert len(await db.claim(10)) == 1


async def test_a_claim_in_a_report_has_the_defaults_of_claim_jobs(db):
    first, _ = await db.enqueue(), await db.enqueue()
    claim = {"worker": "w1", "queues": [db.queue], "job_types": ["sql-resize"]}
    answer = await db.value("select report_jobs('[]', $1)", claim)
    (job,) = answer["jobs"]
    assert job["id"] == str(first) and job["lease_seconds"] == 30


async def test_the_default_of_lease_seconds_is_a_setting(db):
    await db.enqueue()
    await db.value("""select set_setting('{"lease_seconds": 45}')""")
    claim = "select claim_jobs('w1', $1, '{sql-resize}')"
    (job,) = await db.value(claim, [db.queue])
    assert job["lease_seconds"] == 45


async def test_completing_stores_the_result_and_ends_the_lease(db):
    await db.enqueue()
    (job,) = await db.claim()
    answer = await db.report(job, "completed", result={"ok": True})
    assert answer == {"job_id": job["id"], "outcome": "ok", "status": "completed"}
    row = await db.job(job["id"])
    assert (row["status"], row["result"], row["progress"]) == ("completed", {"ok": True}, 100)
    assert row["finished_at"] is not None
    assert row["lease_expires_at"] is None


async def test_a_repeated_report_changes_nothing_and_is_reported_as_repeated(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "completed", result=1)
    before = await db.job(job["id"])
    assert (await db.report(job, "completed", result=2))["outcome"] == "repeated"
    assert await db.job(job["id"]) == before


async def test_a_stale_lease_changes_nothing_and_is_reported_as_stale(db):
    await db.enqueue()
    (job,) = await db.claim()
    stale = {**job, "lease_id": str(uuid4())}
    assert (await db.report(stale, "completed"))["outcome"] == "stale"
    assert (await db.job(job["id"]))["status"] == "processing"


async def test_a_failed_attempt_is_retried_with_exponential_backoff(db):
    job_id = await db.enqueue(max_attempts=3)
    delays = []
    for _ in range(2):
        (job,) = await db.claim()
        await db.report(job, "failed", error="boom", detail="traceback", duration_seconds=1.5)
        row = await db.job(job_id)
        assert (row["status"], row["hold"], row["error"]) == ("pending", "scheduled", "boom")
        delays.append((row["scheduled_for"] - row["updated_at"]).total_seconds())
        assert await db.claim() == []
        await db.pass_time(20)
    assert 3.9 < delays[0] < 6.1  # The delay is 5 s, with a jitter of 20 %.
    assert 7.9 < delays[1] < 12.1
    (job,) = await db.claim()
    await db.report(job, "failed", error="boom again")
    assert (await db.job(job_id))["status"] == "failed"
    attempts = await db.rows(
        "select attempt, worker, error, detail, duration_seconds from picture_queue.history "
        "where job_id = $1 and action in ('back_off', 'fail') order by id",
        job_id,
    )
    assert [a["attempt"] for a in attempts] == [1, 2, 3]
    assert attempts[0] | {"duration_seconds": 1.5} == {
        "attempt": 1,
        "worker": "w1",
        "error": "boom",
        "detail": "traceback",
        "duration_seconds": 1.5,
    }


async def test_an_error_that_is_not_retryable_fails_the_job_at_once(db):
    await db.enqueue(max_attempts=5)
    (job,) = await db.claim()
    assert (await db.report(job, "failed", retryable=False, error="no"))["status"] == "failed"


async def test_the_handler_can_set_the_delay_of_a_retry(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "failed", error="later", delay_seconds=100)
    row = await db.job(job["id"])
    assert (row["scheduled_for"] - row["updated_at"]).total_seconds() == pytest.approx(100, abs=1)


async def test_the_history_keeps_the_last_fifty_changes(db):
    job_id = await db.enqueue(max_attempts=60)
    for _ in range(55):
        (job,) = await db.claim()
        await db.report(job, "failed", error="x", delay_seconds=0)
        await db.maintain()
    history = await db.rows(
        "select attempt from picture_queue.history where job_id = $1 order by id", job_id
    )
    assert len(history) == 50
    assert max(row["attempt"] for row in history) == 55


async def test_a_snoozed_or_released_job_does_not_use_up_an_attempt(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "snoozed", delay_seconds=60)
    row = await db.job(job["id"])
    assert (row["status"], row["hold"], row["attempt"]) == ("pending", "scheduled", 0)
    await db.pass_time(61)
    (job,) = await db.claim()
    await db.report(job, "released")
    row = await db.job(job["id"])
    assert (row["status"], row["hold"], row["attempt"]) == ("pending", None, 0)


async def test_a_parked_job_has_no_lease_and_does_not_use_up_an_attempt(db):
    await db.enqueue()
    (job,) = await db.claim(lease=2.0)
    await db.report(job, "parked", delay_seconds=60)
    row = await db.job(job["id"])
    assert (row["status"], row["hold"], row["lease_expires_at"]) == ("processing", "parked", None)
    await db.pass_time(30)  # The lease would have expired, but a parked job is not swept.
    assert await db.claim() == []
    assert (await db.job(job["id"]))["hold"] == "parked"
    await db.pass_time(31)
    (job,) = await db.claim()
    assert job["attempt"] == 1


async def test_an_expired_lease_is_swept_and_uses_up_an_attempt(db):
    await db.enqueue(max_attempts=2)
    (first,) = await db.claim(lease=5.0)
    await db.pass_time(6)
    (second,) = await db.claim(worker="w2", lease=5.0)
    assert (second["id"], second["attempt"]) == (first["id"], 2)
    assert (await db.report(first, "completed"))["outcome"] == "stale"
    await db.pass_time(6)
    assert await db.claim(worker="w3") == []
    row = await db.job(first["id"])
    assert row["status"] == "failed"
    assert "lease" in row["error"]


async def test_a_heartbeat_extends_leases_and_returns_lost_ones(db):
    await db.enqueue()
    (job,) = await db.claim(lease=10.0)
    await db.pass_time(8)
    leases = [
        {"job_id": job["id"], "lease_id": job["lease_id"]},
        {"job_id": str(uuid4()), "lease_id": job["lease_id"]},
    ]
    answer = await db.value("select heartbeat_jobs('w1', $1)", leases)
    assert answer == {"cancel": [], "lost": [leases[1]["job_id"]]}
    await db.pass_time(8)
    assert await db.claim(worker="w2") == []
    assert (await db.job(job["id"]))["status"] == "processing"


async def test_progress_is_written_under_the_lease(db):
    await db.enqueue()
    (job,) = await db.claim()
    call = "select report_progress($1, $2, $3, $4)"
    args = (UUID(job["id"]), UUID(job["lease_id"]), 40, "downloading")
    assert await db.value(call, *args) == {"cancel_requested": False}
    row = await db.job(job["id"])
    assert (row["progress"], row["message"]) == (40, "downloading")
    stale = await db.refusal(call, UUID(job["id"]), uuid4(), 50, None)
    assert stale.sqlstate == "PT409"
    assert stale.message.startswith("PQ_STALE_LEASE: ")
    wrong = await db.refusal(call, *args[:2], 101, None)
    assert wrong.message.startswith("PQ_INVALID_ARGUMENT: ")
    assert "101" in wrong.detail


async def test_a_cancel_ends_a_pending_job(db):
    job_id = await db.enqueue()
    answer = await db.value("select cancel_job($1)", job_id)
    assert answer["status"] == "cancelled"
    assert await db.value("select cancel_job($1)", job_id) == answer
    assert await db.claim() == []


@pytest.mark.parametrize("outcome", ["failed", "snoozed", "released", "parked", "cancelled"])
async def test_a_cancel_request_overrides_every_outcome_but_completed(db, outcome):
    await db.enqueue()
    (job,) = await db.claim()
    answer = await db.value("select cancel_job($1)", UUID(job["id"]))
    assert (answer["status"], answer["cancel_requested"]) == ("processing", True)
    answer = await db.value(
        "select heartbeat_jobs('w1', $1)", [{"job_id": job["id"], "lease_id": job["lease_id"]}]
    )
    assert answer["cancel"] == [job["id"]]
    assert (await db.report(job, outcome, delay_seconds=5))["status"] == "cancelled"


async def test_a_job_that_completes_despite_a_cancel_request_is_completed(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.value("select cancel_job($1)", UUID(job["id"]))
    assert (await db.report(job, "completed"))["status"] == "completed"


async def test_a_cancelled_parked_job_is_claimed_again_for_cleanup(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "parked", delay_seconds=600)
    await db.value("select cancel_job($1)", UUID(job["id"]))
    (again,) = await db.claim()
    assert again["cancel_requested_at"] is not None
    assert (await db.report(again, "cancelled"))["status"] == "cancelled"


async def test_a_worker_that_stops_can_release_a_job_claimed_for_cleanup(db):
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "parked", delay_seconds=600)
    await db.value("select cancel_job($1)", UUID(job["id"]))
    for _ in range(2):
        (again,) = await db.claim()
        assert (again["id"], again["attempt"]) == (job["id"], 1)
        assert again["cancel_requested_at"] is not None
        assert (await db.report(again, "released"))["status"] == "pending"
    (again,) = await db.claim()
    assert (await db.report(again, "failed"))["status"] == "cancelled"


async def test_a_job_is_cancelled_if_its_worker_dies_after_a_cancel_request(db):
    await db.enqueue()
    (job,) = await db.claim(lease=5.0)
    await db.value("select cancel_job($1)", UUID(job["id"]))
    await db.pass_time(6)
    assert await db.claim(worker="w2") == []
    assert (await db.job(job["id"]))["status"] == "cancelled"


async def test_a_job_is_cancelled_if_its_worker_dies_during_cleanup(db):
    await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, "parked", delay_seconds=600)
    await db.value("select cancel_job($1)", UUID(job["id"]))
    (again,) = await db.value(
        "select claim_jobs('w1', $1, '{sql-resize}', lease_seconds => 5, confirms_start => true)",
        [db.queue],
    )
    # A heartbeat that finds the row locked confirms the start in lease_extension.
    await db.run(
        "insert into picture_queue.lease_extension (job_id, lease_id, lease_expires_at) "
        "values ($1, $2, picture_queue._now() + interval '5 seconds')",
        UUID(again["id"]),
        UUID(again["lease_id"]),
    )
    await db.pass_time(6)
    assert (await db.job(job["id"]))["status"] == "cancelled"


async def test_a_retry_allows_one_more_attempt(db):
    await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, "failed", error="boom")
    await db.value("select retry_job($1)", UUID(job["id"]))
    row = await db.job(job["id"])
    assert (row["status"], row["error"], row["max_attempts"]) == ("pending", None, 2)
    (again,) = await db.claim()
    assert again["attempt"] == 2


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_a_finished_job_cannot_be_cancelled(db, status):
    await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, status, error="boom")
    refused = await db.refusal("select cancel_job($1)", UUID(job["id"]))
    assert refused.message.startswith("PQ_FINISHED_JOB: ")
    assert status in refused.detail


async def test_a_scheduled_job_waits_for_its_time(db):
    due = datetime.now(UTC) + timedelta(seconds=100)
    job_id = await db.enqueue(scheduled_for=due)
    assert (await db.job(job_id))["hold"] == "scheduled"
    assert await db.claim() == []
    await db.pass_time(101)
    assert [job["id"] for job in await db.claim()] == [str(job_id)]


async def test_a_result_above_max_result_bytes_fails_the_job(db):
    await db.run("update picture_queue.setting set max_result_bytes = 100")
    await db.enqueue()
    (job,) = await db.claim()
    assert (await db.report(job, "completed", result="x" * 200))["status"] == "failed"
    assert "larger" in (await db.job(job["id"]))["error"]


async def test_claim_next_job_and_complete_job_work_without_a_lease_id(db):
    job_id = await db.enqueue("generate-image")
    (row,) = await db.rows("select * from claim_next_job($1)", db.queue)
    assert (row["id"], row["status"]) == (job_id, "processing")
    assert row["lease_expires_at"] - datetime.now(UTC) > timedelta(minutes=9)
    assert await db.value("select complete_job($1, null, null)", job_id) == "completed"
    assert await db.value("select complete_job($1, null, null)", job_id) == "completed"
    assert await db.rows("select * from claim_next_job($1)", db.queue) == []


async def test_claim_next_job_takes_over_jobs_of_a_dead_worker(db):
    await db.enqueue()
    (job,) = await db.claim(lease=5.0)
    await db.pass_time(6)
    (row,) = await db.rows("select id, attempt from claim_next_job($1)", db.queue)
    assert (str(row["id"]), row["attempt"]) == (job["id"], 2)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"job_id": None}, "outcomes[0]: job_id is missing"),
        ({"lease_id": None}, "outcomes[0]: lease_id is missing"),
        ({"outcome": "done"}, 'outcomes[0]: outcome is "done"'),
        ({"delay_seconds": -1}, "outcomes[0]: delay_seconds is -1, not 0 to 31536000"),
        ({"delay_seconds": 1e12}, "delay_seconds is 1000000000000"),
    ],
)
async def test_an_invalid_outcome_is_refused_and_the_outcomes_of_other_jobs_are_written(
    db, item, expected
):
    await db.enqueue()
    await db.enqueue()
    bad, other = (
        {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "snoozed"}
        for job in await db.claim(2)
    )
    refused = await db.refusal("select report_jobs($1)", [bad | item])
    assert expected in refused.detail
    answer = (await db.value("select report_jobs($1)", [bad | item, other]))["outcomes"]
    assert [item["outcome"] for item in answer] == ["refused", "ok"]
    assert expected.removeprefix("outcomes[0]: ") in answer[0]["error"]
    assert (await db.job(bad["job_id"]))["status"] == "processing"
    assert (await db.job(other["job_id"]))["hold"] == "scheduled"


async def test_complete_job_with_an_error_retries_the_job_and_then_fails_it(db):
    job_id = await db.enqueue(max_attempts=2)
    await db.rows("select * from claim_next_job($1)", db.queue)
    assert await db.value("select complete_job($1, null, 'boom')", job_id) == "pending"
    await db.pass_time(60)
    await db.rows("select * from claim_next_job($1)", db.queue)
    assert await db.value("select complete_job($1, null, 'boom')", job_id) == "failed"
    assert (await db.job(job_id))["error"] == "boom"


async def test_complete_job_needs_the_lease_id_of_a_job_from_claim_jobs(db):
    job_id = await db.enqueue()
    (job,) = await db.claim()
    refused = await db.refusal("select complete_job($1, null, null)", job_id)
    assert refused.message.startswith("PQ_STALE_LEASE: ")
    lease = UUID(job["lease_id"])
    assert await db.value("select complete_job($1, '1', null, $2)", job_id, lease) == "completed"


async def test_only_a_retry_leads_out_of_a_terminal_state(db):
    rows = await db.rows("select * from picture_queue.state_transition")
    assert {row["action"] for row in rows if row["from_status"] in TERMINAL} == {"retry"}
    assert not [row for row in rows if row["to_status"] in TERMINAL and row["to_hold"]]


async def test_a_change_that_is_not_permitted_has_no_effect(db):
    job_id = await db.enqueue()
    changed = await db.rows(
        "select * from unnest(picture_queue._transition(array["
        "picture_queue._change($1, 'complete')]))",
        job_id,
    )
    assert changed == []
    assert (await db.job(job_id))["status"] == "pending"
