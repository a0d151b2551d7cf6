"""The rates of generations in SQL."""

from uuid import uuid4

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
