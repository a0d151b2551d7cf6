"""Combinations of two features, and arguments and results at the limits of size and type."""

import json
from uuid import UUID, uuid4

import pytest


async def test_a_report_may_contain_a_stale_and_a_valid_lease_of_one_job(db):
    """A worker that lost a job and claimed it again may report both attempts."""
    await db.enqueue()
    (lost,) = await db.claim(lease=5.0)
    await db.pass_time(6)
    await db.maintain()
    (job,) = await db.claim()
    for claims in ([lost, job], [job, lost]):
        items = [
            {"job_id": claimed["id"], "lease_id": claimed["lease_id"], "outcome": "completed"}
            for claimed in claims
        ]
        async with db.connection.transaction():
            answer = (await db.value("select report_jobs($1)", items))["outcomes"]
            outcome_by_lease = {
                item["lease_id"]: result["outcome"]
                for item, result in zip(items, answer, strict=True)
            }
            assert outcome_by_lease == {lost["lease_id"]: "stale", job["lease_id"]: "ok"}
            assert (await db.job(job["id"]))["status"] == "completed"
            # Undo the completion, so that the next report can use the other order.
            await db.run("update job_queue set status = 'processing', finished_at = null, "
                         "lease_expires_at = picture_queue._now() + interval '30 seconds' "
                         "where id = $1::text::uuid", job["id"])  # fmt: skip


@pytest.mark.parametrize("outcome", ["snoozed", "released", "parked"])
async def test_outcomes_other_than_failures_do_not_count_for_the_breaker(db, outcome):
    await db.value("select set_queue($1, $2)", db.queue, {"breaker_failures": 2})
    await db.enqueue()
    (job,) = await db.claim()
    await db.report(job, "failed", error="no", delay_seconds=0)
    await db.maintain()
    for _ in range(3):
        (job,) = await db.claim()
        await db.report(job, outcome, delay_seconds=0)
        await db.maintain()
    assert len(await db.claim()) == 1, "the breaker must not pause the queue"


async def test_an_expired_job_can_be_retried(db):
    job_id = await db.enqueue(options={"expires_in_seconds": 10})
    await db.pass_time(11)
    await db.maintain()
    assert (await db.job(job_id))["status"] == "failed"
    await db.value("select retry_job($1)", job_id)
    assert [job["id"] for job in await db.claim()] == [str(job_id)]


async def test_a_replaced_job_is_no_longer_blocked_by_its_old_limit_key(db):
    await db.value("select pause_key('k:1')")

    async def enqueue(*keys: str) -> str:
        unique = {"by": ["n"], "on_conflict": "replace"}
        options = {"unique": unique, "limit_keys": [*keys]}
        return str(await db.enqueue(payload={"n": 1}, options=options))

    job_id = await enqueue("k:1")
    assert await db.claim() == []
    assert await enqueue("k:2") == job_id
    assert [job["id"] for job in await db.claim()] == [job_id]


async def test_a_snooze_with_a_pause_key_pauses_the_queue_until_run_at(db):
    await db.enqueue()
    other = await db.enqueue()
    (job,) = await db.claim()
    until = await db.value("select to_jsonb(picture_queue._now() + interval '60 seconds')")
    await db.report(job, "snoozed", run_at=until, pause_key=f"queue:{db.queue}")
    await db.pass_time(59)
    assert await db.claim() == []
    await db.pass_time(2)
    assert str(other) in [claimed["id"] for claimed in await db.claim(2)]


async def test_an_expired_lease_of_claim_next_job_is_stale(db):
    job_id = await db.enqueue()
    await db.rows("select * from claim_next_job($1)", db.queue)
    await db.pass_time(3600)
    await db.maintain()
    refused = await db.refusal("select complete_job($1)", job_id)
    assert refused.message.startswith("PQ_STALE_LEASE")


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_unique_states_with_a_finished_state_must_include_processing(db, state):
    """Otherwise another job could take the unique key while this job runs."""
    options = {"unique": {"states": ["pending", state]}}
    refused = await db.refusal("select enqueue_job('a', options => $1)", options)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert "processing" in refused.detail


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("enqueue_jobs($1)", [[{"job_type": "a", "priority": "high"}]]),
        ("enqueue_jobs($1)", [[{"job_type": "a", "job_id": "abc"}]]),
        ("enqueue_jobs($1)", [[{"job_type": "a", "max_attempts": "many"}]]),
        ("enqueue_jobs($1)", [[{"job_type": "a", "scheduled_for": "soon"}]]),
        ("enqueue_jobs($1)", [[{"job_type": "a", "priority": 1.5}]]),
        ("enqueue_job('a', options => $1)", [{"depends_on": ["abc"]}]),
        ("enqueue_job('a', options => $1)", [{"batch_id": "abc"}]),
        ("enqueue_job('a', options => $1)", [{"expires_at": "soon"}]),
        ("report_jobs($1)", [[{"job_id": "abc", "lease_id": str(uuid4())}]]),
        ("report_jobs($1)", [[1]]),
        ("heartbeat_jobs('w', $1)", [{}]),
        ("heartbeat_jobs('w', $1)", [[{"job_id": "abc"}]]),
        ("register_worker('w', array['q'], $1)", [{"a": {"max_attempts": "x"}}]),
        ("set_schedule('s', $1)", [{"every_seconds": 60, "job_type": "a", "priority": "high"}]),
    ],
)
async def test_a_value_of_the_wrong_type_is_refused(db, call, args):
    refused = await db.refusal(f"select {call}", *args)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT"), refused
    assert refused.sqlstate == "PT400"


async def test_a_page_of_generations_has_at_most_eight_mebibytes(db):
    user = UUID("00000000-0000-4000-8000-00000000beef")
    await db.run(
        """insert into generations (user_id, job_id, model_id, prompt, input, created_at)
        select $1, gen_random_uuid(), 'm', '', jsonb_build_object('t', repeat('x', 100000)),
          now() + i * interval '1 second' from generate_series(1, 200) i""",
        user,
    )
    await db.act_as("authenticated", user)
    listed, before = [], None
    while page := await db.value("select list_generations($1)", {"limit": 1000, "before": before}):
        assert len(json.dumps(page)) < 9_000_000
        listed += [generation["id"] for generation in page]
        before = page[-1]["created_at"]
    assert len(set(listed)) == len(listed) == 200


async def test_a_list_of_schedules_has_at_most_eight_mebibytes(db):
    await db.run(
        """insert into picture_queue.schedule (name, every_seconds, job, next_at)
        select 'sql-large-' || i, 60, jsonb_build_object('payload', repeat('x', 60000)), now()
        from generate_series(1, 200) i"""
    )
    listed = await db.value("select list_schedules()")
    assert 100 < len(listed) < 200
    assert len(json.dumps(listed)) < 9_000_000
