"""The rates of generations in SQL."""

from decimal import Decimal
from uuid import uuid4

import pytest

from picture_queue.providers.replicate.schema import _COUNT_INPUTS

START = "select start_generation('a cat', null, '{}', $1)"


async def test_an_id_that_was_used_before_counts_as_a_new_start(db):
    """A start with the id of a deleted generation is not a retry, which no rate limits."""
    first, second = uuid4(), uuid4()
    generation_ids = [str(uuid4()) for _ in range(3)]
    for user in (first, second):
        await db.act_as(None)
        await db.value("""select set_budget('user:*', '{"per_minute": 3, "max_pending": 100}')""")
        await db.act_as("authenticated", user)
        for generation_id in generation_ids:
            await db.value(START, {"generation_id": generation_id})
        refused = await db.refusal(START, {"generation_id": str(uuid4())})
        assert refused.message.startswith("PQ_RATE_LIMITED")
        await db.act_as(None)
        # The state after a minute, if all generations were cancelled and deleted, and the jobs
        # pruned.
        await db.run("update picture_queue.ledger set at = at - interval '1 minute'")
        await db.run("delete from public.generations")
        await db.run("delete from public.job_queue")


async def test_a_retry_does_not_count_for_the_rate(db):
    user = uuid4()
    await db.value("""select set_budget('user:*', '{"per_minute": 2, "max_pending": 100}')""")
    await db.act_as("authenticated", user)
    started = await db.value(START, {})
    await db.value("select cancel_generation($1)", started["generation_id"])
    await db.act_as(None)
    await db.value("select retry_job($1)", started["job_id"])
    await db.act_as("authenticated", user)
    await db.value(START, {})
    refused = await db.refusal(START, {})
    assert refused.message.startswith("PQ_RATE_LIMITED")


async def insert_failed_generations(db, count, user=None):
    """Insert generations whose only attempt has failed."""
    await db.run(
        """with row as (
          select gen_random_uuid() as id, gen_random_uuid() as job_id
          from generate_series(1, $1::integer)
        ),
        job as (
          insert into job_queue (id, job_type, queue, status, user_id, generation_id, attempt,
            max_attempts, finished_at)
          select job_id, 'generate-image', $2, 'failed', $3, id, 1, 1, now() from row
        )
        insert into generations (id, user_id, job_id, model_id, prompt, status)
        select id, $3, job_id, 'black-forest-labs/flux-schnell', 'a cat', 'failed' from row""",
        count,
        db.queue,
        user,
    )


async def retry_failed_jobs(db):
    filters = {"queue": db.queue, "status": "failed"}
    return await db.value("select change_jobs('retry', $1)", filters)


async def test_a_call_retries_at_most_500_generations(db):
    """A retry of 10,000 would lock the account of the project for 36 seconds."""
    await db.value("""select set_budget('project', '{"usd_per_day": 1000}')""")
    await insert_failed_generations(db, 501)
    plain = await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, "failed")
    assert await retry_failed_jobs(db) == {"matched": 502, "changed": 501, "more": True}
    assert (await db.job(plain))["status"] == "pending"
    assert await retry_failed_jobs(db) == {"matched": 1, "changed": 1, "more": False}


@pytest.mark.timeout(300)  # against a hang; a loaded machine needs more calls
async def test_generations_that_cannot_be_retried_stop_no_others(db):
    poor = uuid4()
    await db.value("select set_budget($1, $2)", f"user:{poor}", {"usd_per_day": 0})
    await insert_failed_generations(db, 500, poor)  # a call takes no others at first
    await insert_failed_generations(db, 5)
    changed = known = 0
    while not changed:  # a call spends at most two seconds on failures; the next takes others first
        changed = (await retry_failed_jobs(db))["changed"]
        failed = await db.value("select count(*) from picture_queue.failed_step")
        assert changed or failed > known
        known = failed
    assert changed == 5


async def test_the_deletion_of_a_generation_without_a_job_refunds_it(db):
    """The refund is made at once: repair() finds no reservation to correct."""
    user = uuid4()
    await db.act_as("authenticated", user)
    started = await db.value(START, {})
    await db.act_as(None)
    await db.run("delete from public.job_queue where id = $1::text::uuid", started["job_id"])
    account = await db.value("select get_account($1)", user)
    assert account["pending"] == 1 and account["spent_today_usd"] > 0
    await db.value("select delete_generation($1)", started["generation_id"])
    account = await db.value("select get_account($1)", user)
    assert (account["pending"], account["spent_today_usd"]) == (0, 0)
    assert await db.value("select picture_queue.repair() ->> 'reservations'") == "0"


@pytest.mark.parametrize(
    ("model", "metrics", "highest_usd"),
    [
        ("black-forest-labs/flux-schnell", {"image_count": 1e300}, 3),
        ("stability-ai/sdxl", {"predict_time": 1e300}, 200),
    ],
)
async def test_an_odd_number_of_the_provider_does_not_distort_the_cost(
    db, model, metrics, highest_usd
):
    cost = await db.value(
        "select picture_queue._prediction_cost($1, '{}', 'succeeded', $2)", model, metrics
    )
    assert 0 < cost <= highest_usd


@pytest.mark.parametrize(
    ("reported", "stored", "pictures"),
    [
        *((-1000, 0, 2), (1e-300, 0, 2), (0.5, 0, 2), (1.5, 3, 3), (True, 0, 2), ("5", 0, 2)),
        *(([4], 0, 2), ({}, 0, 2), (None, 0, 2), (-1000, 3, 3)),
        *((0, 0, 0), (0, 1, 1), (3, 1, 3), (1, 3, 3), (4.0, 0, 4)),
    ],
)
async def test_a_prediction_costs_a_whole_number_of_pictures_and_at_least_the_stored_ones(
    db, reported, stored, pictures
):
    cost = await db.value(
        "select picture_queue._prediction_cost($1, $2, 'succeeded', $3, $4)",
        "black-forest-labs/flux-schnell",
        {"num_outputs": 2},
        {"image_count": reported},
        stored,
    )
    assert cost == pictures * Decimal("0.003")


@pytest.mark.parametrize(
    ("plan", "accepted"),
    [("pro", True), ("a" * 63, True), ("a" * 64, False), (".a", False), ("-", False), ("", False)],
)
async def test_accounts_budgets_and_rules_accept_the_same_plans(db, plan, accepted):
    """Otherwise a rule could name a plan that no account can have."""
    calls = (
        ("select set_account(gen_random_uuid(), $1)", plan),
        ("select set_budget('plan:' || $1)", plan),
        ("select set_input_rule('*', 'width', 'cap', '2048', $1)", plan),
    )
    for call, argument in calls:
        if accepted:
            await db.value(call, argument)
        else:
            refused = await db.refusal(call, argument)
            assert refused.message.startswith("PQ_INVALID_ARGUMENT"), call


@pytest.mark.parametrize("name", [*_COUNT_INPUTS, "Num_Outputs"])
@pytest.mark.parametrize("number", [4, "4", " 4 ", [4], ["4", 1], "0" * 100 + "4"])
async def test_pictures_are_paid_that_an_unlisted_input_requests(db, name, number):
    model = "stability-ai/stable-diffusion-3.5-large-turbo"  # its list of inputs is incomplete
    query = "select (picture_queue._cost($1, $2) ->> 'amount_usd')::numeric"
    single = await db.value(query, model, {"seed": 9})
    assert single == await db.value(
        "select price_usd_per_image from picture_queue.model where model_id = $1", model
    )
    paid = await db.value(query, model, {"seed": 9, name: number})
    assert paid == single * (1000 if len(str(number)) > 80 else 4)


async def test_each_input_for_the_number_of_pictures_has_a_cap(db):
    capped = await db.value(
        "select array_agg(input_like) from picture_queue.input_rule where action = 'cap'"
    )
    assert set(_COUNT_INPUTS) <= {name.replace("!", "") for name in capped}
