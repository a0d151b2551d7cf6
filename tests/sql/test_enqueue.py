"""Enqueue: defaults, validation and idempotency."""

from uuid import UUID, uuid4

import pytest


async def test_defaults_come_from_job_type_queue_and_setting_in_this_order(db):
    await db.run(
        "insert into picture_queue.queue (name, max_attempts, timeout_seconds) values ($1, 7, 70)",
        db.queue,
    )
    await db.value(
        "select register_worker('w1', array[$1], $2)",
        db.queue,
        {"typed": {"queue": db.queue, "max_attempts": 9}, "plain": {}},
    )
    typed = await db.job(await db.value("select enqueue_job('typed')"))
    plain = await db.job(await db.enqueue("plain"))
    explicit = await db.job(await db.enqueue("typed", max_attempts=2))
    assert (typed["queue"], typed["max_attempts"]) == (db.queue, 9)
    assert plain["max_attempts"] == 7
    assert explicit["max_attempts"] == 2
    claimed = await db.claim(10, "typed", "plain")
    assert {job["timeout_seconds"] for job in claimed} == {70}


async def test_an_unknown_queue_is_created_with_defaults(db):
    await db.enqueue()
    assert await db.value("select events from picture_queue.queue where name = $1", db.queue)


async def test_a_repeated_job_id_returns_the_existing_job(db):
    job_id = uuid4()
    assert await db.enqueue(job_id=job_id) == await db.enqueue(job_id=job_id) == job_id


async def test_a_job_id_of_another_job_type_is_a_conflict(db):
    job_id = await db.enqueue()
    refused = await db.refusal("select enqueue_job('other', job_id => $1)", job_id)
    assert (refused.sqlstate, refused.message.split(":")[0]) == ("PT409", "PQ_CONFLICT")


async def test_an_idempotency_key_applies_per_type_and_owner(db):
    user = uuid4()
    first = await db.enqueue(idempotency_key="k")
    assert await db.enqueue(idempotency_key="k") == first
    assert await db.enqueue("other", idempotency_key="k") != first
    assert await db.enqueue(idempotency_key="k", user_id=user) != first


async def test_the_answers_for_many_jobs_are_in_the_order_of_the_call(db):
    key = uuid4().hex
    jobs = [{"job_type": "a", "queue": db.queue, "priority": i} for i in range(3)]
    jobs += [{"job_type": "a", "idempotency_key": key}, {"job_type": "a", "idempotency_key": key}]
    answer = await db.value("select enqueue_jobs($1)", jobs)
    assert [item["outcome"] for item in answer] == ["created"] * 4 + ["existing"]
    assert answer[3]["job_id"] == answer[4]["job_id"]
    for i, item in enumerate(answer[:3]):
        assert (await db.job(item["job_id"]))["priority"] == i


async def test_a_call_inserts_all_of_its_jobs_or_none(db):
    jobs = [{"job_type": "a", "queue": db.queue}, {"job_type": "a", "queue": db.queue, "prio": 1}]
    refused = await db.refusal("select enqueue_jobs($1)", jobs)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT: ")
    assert refused.detail == "jobs[1]: prio is not known"
    assert await db.value("select count(*) from job_queue where queue = $1", db.queue) == 0


async def test_a_call_accepts_ten_thousand_jobs(db):
    jobs = [{"job_type": "a", "queue": db.queue, "payload": {"n": n}} for n in range(10_000)]
    answer = await db.value("select enqueue_jobs($1)", jobs)
    assert len({item["job_id"] for item in answer}) == 10_000


@pytest.mark.parametrize(
    ("job", "detail"),
    [
        ({}, "job_type is missing"),
        ({"job_type": None}, "job_type is null"),
        ({"job_type": "no spaces"}, 'job_type is "no spaces"'),
        ({"job_type": "a", "queue": "a b"}, 'queue is "a b"'),
        ({"job_type": "a", "payload": [1]}, "payload is of type array, not an object"),
        ({"job_type": "a", "max_attempts": 0}, "max_attempts is 0, not 1 to 1000"),
        (
            {"job_type": "a", "idempotency_key": ""},
            "idempotency_key has 0 characters, not 1 to 255",
        ),
        ({"job_type": "a", "options": {"x": 1}}, "options.x is not known"),
        (
            {"job_type": "a", "options": {"timeout_seconds": 0}},
            "options.timeout_seconds is 0, not 0.001 to 31536000",
        ),
        ({"job_type": "a", "scheduled_for": "infinity"}, "scheduled_for is infinity"),
        (
            {"job_type": "a", "scheduled_for": "20000-01-01T00:00:00Z"},
            "scheduled_for is 20000-01-01T00:00:00Z",
        ),
        ({"job_type": "a", "status": "completed"}, "status is not known"),
        ({"job_type": "a", "lease_id": str(uuid4())}, "lease_id is not known"),
        ("text", "a job must be an object"),
    ],
)
async def test_the_error_for_an_invalid_job_names_field_and_value(db, job, detail):
    refused = await db.refusal("select enqueue_jobs($1)", [job])
    assert (refused.sqlstate, refused.detail) == ("PT400", detail)
    assert refused.message == "PQ_INVALID_ARGUMENT: an argument is invalid"


@pytest.mark.parametrize("jobs", [{}, "x", 1, None])
async def test_jobs_that_are_not_a_list_are_refused(db, jobs):
    refused = await db.refusal("select enqueue_jobs($1)", jobs)
    assert refused.detail == "jobs is not a list"


async def test_a_payload_above_the_limit_is_refused(db):
    await db.enqueue(payload={"x": "a" * 65_000})
    refused = await db.refusal("select enqueue_job('a', $1)", {"x": "a" * 65_536})
    assert (refused.sqlstate, refused.message) == ("PT413", "PQ_TOO_LARGE: too large")
    assert "65536" in refused.detail


async def test_an_enqueue_is_rolled_back_with_its_transaction(db):
    async def enqueue_and_roll_back() -> UUID:
        transaction = db.connection.transaction()
        await transaction.start()
        job_id = await db.enqueue()
        await transaction.rollback()
        return job_id

    job_id = await enqueue_and_roll_back()
    assert await db.value("select count(*) from job_queue where id = $1", job_id) == 0


@pytest.mark.parametrize(
    "job_types",
    [{"a b": {}}, {"a": {"timeout_seconds": 0}}, {"a": {"lease_seconds": 1e12}}],
)
async def test_a_policy_out_of_range_is_refused(db, job_types):
    refused = await db.refusal("select register_worker('w', array['q'], $1)", job_types)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT: ")
