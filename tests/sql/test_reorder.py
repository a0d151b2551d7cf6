"""Changes of the order of claims (fair_share, aging_seconds) of a queue with pending jobs."""

from uuid import uuid4

import pytest

ADA, BOB = uuid4(), uuid4()
ORDERS = {
    "plain": {"fair_share": False, "aging_seconds": None},
    "fair": {"fair_share": True, "aging_seconds": None},
    "aging": {"fair_share": False, "aging_seconds": 60},
}
CHANGES = [(old, new) for old in ORDERS for new in ORDERS if old != new]


async def set_order(db, order):
    await db.value("select set_queue($1, $2)", db.queue, ORDERS[order])


async def claim_numbers(db, n=100):
    """Claim up to n jobs and return their numbers in the order of the claim."""
    return [job["payload"]["i"] for job in await db.claim(n)]


async def enqueue(db, *numbers, **arguments):
    """Enqueue a job with each number as its payload."""
    for i in numbers:
        await db.enqueue(payload={"i": i}, **arguments)


async def count_misplaced(db, order):
    """Count the pending jobs whose rank, turn or tenant does not fit this order.

    With fair sharing, a turn is a small number; otherwise it is a time in seconds since the epoch.
    No job of a test that uses this names its tenant.
    """
    condition = {
        "plain": "rank <> -priority or turn < 1000000000 or tenant is not null",
        "fair": "rank <> -priority or turn not between 1 and 1000000 or tenant is null",
        "aging": "rank <> 0 or turn < 1000000000 or tenant is not null",
    }[order]
    sql = (
        f"select count(*) from job_queue where queue = $1 and status = 'pending' and ({condition})"
    )
    return await db.value(sql, db.queue)


@pytest.mark.parametrize(("old", "new"), CHANGES)
async def test_jobs_from_before_the_change_stay_before_new_jobs(db, old, new):
    await set_order(db, old)
    await enqueue(db, 1, 2, 3)
    await set_order(db, new)
    await enqueue(db, 4, 5, 6)
    assert await claim_numbers(db) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("old", "new"), CHANGES)
async def test_priorities_apply_after_a_change_of_the_order(db, old, new):
    await set_order(db, old)
    await enqueue(db, 1, priority=-1)
    await enqueue(db, 2, priority=0)
    await enqueue(db, 3, priority=1)
    await set_order(db, new)
    await enqueue(db, 4, priority=-1)
    await enqueue(db, 5, priority=0)
    await enqueue(db, 6, priority=1)
    expected = [3, 6, 2, 5, 1, 4]
    assert await claim_numbers(db) == expected


@pytest.mark.parametrize("old", ["plain", "aging"])
async def test_tenants_take_turns_among_jobs_from_before_the_change(db, old):
    await set_order(db, old)
    await enqueue(db, 1, 2, 3, user_id=ADA)
    await enqueue(db, 4, 5, user_id=BOB)
    await set_order(db, "fair")
    await enqueue(db, 6, user_id=BOB)
    assert await claim_numbers(db) == [1, 4, 2, 5, 3, 6]


@pytest.mark.parametrize(("old", "new"), CHANGES)
@pytest.mark.parametrize("state", ["scheduled", "running", "parked", "failed"])
async def test_a_job_that_becomes_claimable_after_the_change_has_its_place_in_the_new_order(
    db, old, new, state
):
    await set_order(db, old)
    first = await db.enqueue(payload={"i": 1}, priority=1, max_attempts=1)
    if state == "scheduled":
        await db.run(
            "update job_queue set hold = 'scheduled', scheduled_for = now() where id = $1", first
        )
    else:
        (job,) = await db.claim()
        if state == "parked":
            await db.report(job, "parked", delay_seconds=1)
        if state == "failed":
            await db.report(job, "failed", error="no")
    await set_order(db, new)
    await enqueue(db, 2, priority=1)
    await enqueue(db, 3)
    if state == "running":
        await db.report(job, "released")
    elif state == "failed":
        await db.value("select change_jobs('retry', $1)", {"queue": db.queue})
    await db.pass_time(2)
    order = await claim_numbers(db)
    # With fair sharing, a job that becomes claimable again takes the turn after the last job of its
    # tenant, here job 2. A scheduled job keeps its turn.
    assert order in ([[1, 2, 3], [2, 1, 3]] if new == "fair" else [[1, 2, 3]])


async def test_many_jobs_are_reordered_in_bounded_steps(db):
    await set_order(db, "aging")
    items = [
        {"job_type": "sql-resize", "queue": db.queue, "payload": {"i": i}, "priority": 1}
        for i in range(10500)
    ]
    await db.value("select enqueue_jobs($1)", items)
    await set_order(db, "plain")
    assert await count_misplaced(db, "plain") == 500
    assert await claim_numbers(db, 2) == [0, 1], "the oldest jobs are still claimed first"
    assert await db.value("select picture_queue._reorder_queues($1, 200)", [db.queue]) == 200
    assert await count_misplaced(db, "plain") == 300
    assert (await db.value("select picture_queue.maintain()"))["reordered"] == 300
    assert await count_misplaced(db, "plain") == 0


async def test_jobs_of_a_transaction_that_was_open_at_the_change_are_reordered_later(db):
    await set_order(db, "plain")
    await set_order(db, "aging")
    # Such a transaction would leave jobs with the old rank and turn; this update does the same.
    await enqueue(db, 1, 2)
    await db.run("update job_queue set rank = 7, turn = 0 where queue = $1", db.queue)
    step = "select picture_queue.maintain()"
    await db.value(step)
    await db.run("update job_queue set rank = 7, turn = 0 where queue = $1", db.queue)
    await db.value(step)
    await db.pass_time(61)  # a second pass begins a minute after the change
    for _ in range(4):  # enough to complete it
        await db.value(step)
    assert await count_misplaced(db, "aging") == 0
    state = "select reorder_after from picture_queue.queue where name = $1"
    assert await db.value(state, db.queue) is None, "the reordering is complete"


async def test_a_change_of_another_setting_updates_no_job(db):
    await set_order(db, "fair")
    await enqueue(db, 1, 2)
    before = await db.rows("select xmin, ctid::text from job_queue where queue = $1", db.queue)
    changes = {"max_attempts": 5, "fair_share": True}
    await db.value("select set_queue($1, $2)", db.queue, changes)
    after = await db.rows("select xmin, ctid::text from job_queue where queue = $1", db.queue)
    assert before == after


@pytest.mark.parametrize(("old", "new"), [("fair", "aging"), ("aging", "fair")])
async def test_one_call_switches_between_fair_sharing_and_aging(db, old, new):
    await set_order(db, old)
    answer = await db.value("select set_queue($1, $2)", db.queue, ORDERS[new])
    assert {key: answer[key] for key in ORDERS[new]} == ORDERS[new]


@pytest.mark.parametrize(
    ("before", "changes", "detail"),
    [
        (
            {},
            {"fair_share": True, "aging_seconds": 5},
            "aging_seconds is 5, fair_share is true",
        ),
        ({"fair_share": True}, {"aging_seconds": 5}, "aging_seconds is 5"),
    ],
)
async def test_fair_sharing_and_aging_together_are_refused(db, before, changes, detail):
    await db.value("select set_queue($1, $2)", db.queue, before)
    error = await db.refusal("select set_queue($1, $2)", db.queue, changes)
    hint = "a queue has one of them: set fair_share to false or aging_seconds to null"
    assert (error.detail, error.hint) == (detail, hint)


@pytest.mark.parametrize(
    ("before", "changes", "detail"),
    [
        (
            {"fair_share": True},
            {"aging_seconds": 5, "fair_share": False, "max_attempts": 0},
            "max_attempts is 0, not 1 to 1000000000",
        ),
        ({}, {"lease_seconds": 0}, "lease_seconds is 0, not 0.001 to 31536000"),
        ({}, {"events": "some"}, 'events is "some", not none, status or progress'),
        ({}, {"fair_share": "maybe"}, 'fair_share is "maybe", not true or false'),
        ({}, {"backoff_jitter": 2, "max_attempts": 3}, "backoff_jitter is 2, not 0 to 1"),
    ],
)
async def test_the_error_for_an_invalid_queue_setting_names_its_range(db, before, changes, detail):
    await db.value("select set_queue($1, $2)", db.queue, before)
    error = await db.refusal("select set_queue($1, $2)", db.queue, changes)
    assert error.detail == detail


async def test_the_error_for_an_invalid_project_setting_names_its_range(db):
    error = await db.refusal("select set_setting($1)", {"max_attempts": 0, "archive": True})
    assert error.detail == "max_attempts is 0, not 1 to 1000000000"
    error = await db.refusal("select set_setting($1)", {"keep_failed_seconds": 5})
    assert error.detail == "keep_failed_seconds is 5, not 60 to 3153600000"


async def test_a_job_that_cannot_be_updated_does_not_stop_the_reordering(db):
    """A trigger raises for one job. The doctor reports it, and the job is reordered later."""
    await set_order(db, "plain")
    await enqueue(db, *range(20), priority=3)
    (bad,) = await db.rows(
        "select id from job_queue where queue = $1 and payload @> '{\"i\": 7}'", db.queue
    )
    await db.run(
        f"""
        create function public.refuse_for_test() returns trigger language plpgsql
        as $$ begin raise exception 'refused by a trigger'; end $$;
        create trigger refuse_for_test before update on public.job_queue for each row
          when (new.id = '{bad["id"]}') execute function public.refuse_for_test()"""
    )
    await set_order(db, "aging")
    assert await count_misplaced(db, "aging") == 1
    findings = await db.findings("failed steps")
    assert f"job {bad['id']}" in str(findings)
    assert "refused by a trigger" in str(findings)
    await db.run("drop trigger refuse_for_test on public.job_queue")
    await db.pass_time(61)
    await db.maintain()
    assert await count_misplaced(db, "aging") == 0
    failed = "select count(*) from picture_queue.failed_step where subject = $1"
    assert await db.value(failed, str(bad["id"])) == 0


async def test_a_reordering_past_its_deadline_is_continued_later(db):
    await set_order(db, "plain")
    await enqueue(db, *range(5), priority=3)
    await db.run(
        "update picture_queue.queue set aging_seconds = 60, reorder_after = 0 where name = $1",
        db.queue,
    )
    await db.value("select set_config('picture_queue.deadline', now()::text, true)")
    await db.value("select picture_queue._reorder_queues(array[$1], 100)", db.queue)
    assert await count_misplaced(db, "aging") == 5
    await db.value("select set_config('picture_queue.deadline', '', true)")
    await db.maintain()
    assert await count_misplaced(db, "aging") == 0


async def test_a_tenant_given_before_fair_sharing_counts_afterwards(db):
    await set_order(db, "plain")
    for tenant in ("ada", "ada", "bob"):
        await db.enqueue(payload={"i": tenant}, options={"tenant": tenant})
    tenants = "select array_agg(tenant order by seq) from job_queue where queue = $1"
    assert await db.value(tenants, db.queue) == ["ada", "ada", "bob"]
    await set_order(db, "fair")
    assert await claim_numbers(db, 1) == ["ada"]
    assert await claim_numbers(db, 1) == ["bob"]


@pytest.mark.parametrize("order", ["plain", "aging"])
async def test_a_given_tenant_is_kept_when_fair_sharing_ends(db, order):
    await set_order(db, "fair")
    await db.enqueue(user_id=ADA, options={"tenant": "ada"})
    await db.enqueue(user_id=ADA)
    await set_order(db, order)
    tenants = "select array_agg(tenant order by seq) from job_queue where queue = $1"
    assert await db.value(tenants, db.queue) == ["ada", None]


@pytest.mark.parametrize("order", ["plain", "aging"])
async def test_tenants_take_no_turns_without_fair_sharing(db, order):
    await set_order(db, order)
    jobs = [{"job_type": "sql-resize", "queue": db.queue, "options": {"tenant": "ada"}}] * 2
    await db.value("select enqueue_jobs($1)", jobs)
    places = "select id, rank, turn from job_queue where queue = $1 order by seq"
    before = await db.rows(places, db.queue)
    for job in await db.claim(2):
        await db.report(job, "released")
    assert await db.rows(places, db.queue) == before
