"""Calls with filters: lists of jobs, failure reasons, and changes of many jobs."""

import json
from uuid import UUID, uuid4

import asyncpg
import pytest

USER, OTHER = uuid4(), uuid4()


async def list_jobs(db, **filters):
    return await db.value("select list_jobs($1)", {"queue": db.queue, **filters})


async def change_jobs(db, action, preview=False, **filters):
    return await db.value("select change_jobs($1, $2, $3)", action, filters, preview)


async def enqueue(db, **fields):
    """Enqueue a job with `enqueue_jobs`, which accepts every option."""
    item = {"job_type": "sql-resize", "queue": db.queue, **fields}
    return UUID((await db.value("select enqueue_jobs($1)", [item]))[0]["job_id"])


async def fail(db, n=1, error="It broke.", **fields):
    """Enqueue jobs and let them fail in their last attempt; return their ids."""
    ids = [await enqueue(db, max_attempts=1, **fields) for _ in range(n)]
    for job in await db.claim(n, fields.get("job_type", "sql-resize")):
        await db.report(job, "failed", error=error)
    return ids


async def queue_counts(db):
    rows = await db.value("select queue_counts()")
    return next(row for row in rows if row["queue"] == db.queue)


async def test_each_filter_selects_only_its_jobs(db):
    plain = await enqueue(db)
    user = await enqueue(db, user_id=str(USER))
    tagged = await enqueue(
        db, job_type="sql-b", options={"tags": ["a", "b"], "metadata": {"x": 1, "y": [2]}}
    )
    later = await enqueue(db, options={"delay_seconds": 60})
    batch = await db.value(
        "select enqueue_batch($1)", [{"job_type": "sql-resize", "queue": db.queue}]
    )
    batched = UUID(batch["jobs"][0]["job_id"])
    (failed,) = await fail(db, job_type="sql-c", error="No room for 'x1' at 100%")
    at = (await db.job(later))["created_at"].isoformat()
    for filters, expected in (
        ({}, [failed, batched, later, tagged, user, plain]),
        ({"job_type": "sql-b"}, [tagged]),
        ({"tag": "b"}, [tagged]),
        ({"tag": "c"}, []),
        ({"metadata": {"y": [2]}}, [tagged]),
        ({"metadata": {"x": 2}}, []),
        ({"user_id": str(USER)}, [user]),
        ({"tenant": str(USER)}, [user]),
        ({"hold": "scheduled"}, [later]),
        ({"batch_id": batch["batch_id"]}, [batched]),
        ({"status": "failed"}, [failed]),
        ({"error": "NO ROOM FOR 'x1' at 100%"}, [failed]),
        ({"error": "no%room"}, []),
        ({"reason": 'No room for "…" at N%'}, [failed]),
        ({"status": "pending"}, [batched, later, tagged, user, plain]),
        ({"status": "processing"}, []),
        ({"created_before": at}, [tagged, user, plain]),
        ({"created_after": at}, [failed, batched]),
        ({"finished_after": at}, [failed]),
        ({"finished_before": at}, []),
        ({"job_ids": [str(user), str(uuid4())]}, [user]),
        ({"limit": 2}, [failed, batched]),
        ({"status": None, "tag": None}, [failed, batched, later, tagged, user, plain]),
    ):
        assert [UUID(row["id"]) for row in await list_jobs(db, **filters)] == expected, filters
    seq = (await db.job(tagged))["seq"]
    assert [UUID(row["id"]) for row in await list_jobs(db, before_seq=seq)] == [user, plain]


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"statsu": "failed"}, "statsu"),
        ({"status": "broken"}, "status"),
        ({"status": 1}, "status"),
        ({"hold": "paused"}, "hold"),
        ({"user_id": "me"}, "user_id"),
        ({"batch_id": 5}, "batch_id"),
        ({"job_ids": "x"}, "job_ids"),
        ({"job_ids": ["x"]}, "job_ids"),
        ({"metadata": []}, "metadata"),
        ({"metadata": "x"}, "metadata"),
        ({"tag": ["a"]}, "tag"),
        ({"created_after": "yesterdayish"}, "created_after"),
        ({"finished_before": 12}, "finished_before"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"before_seq": 1.5}, "before_seq"),
    ],
)
async def test_the_error_for_an_invalid_filter_names_the_field(db, filters, field):
    error = await db.refusal("select list_jobs($1)", filters)
    assert (error.sqlstate, error.message.split(":")[0]) == ("PT400", "PQ_INVALID_ARGUMENT")
    assert error.detail.startswith(f"filter.{field} ")


async def test_a_filter_that_is_not_an_object_is_refused(db):
    assert (await db.refusal("select list_jobs($1)", [1])).detail == "filter is not an object"


async def test_text_in_a_filter_is_never_executed(db):
    await enqueue(db)
    for hostile in ("' or true --", "\\' or 1=1; drop table job_queue; --", "%s", "$1"):
        for key in ("queue", "tag", "error", "reason", "tenant", "job_type"):
            assert await db.value("select list_jobs($1)", {key: hostile}) == []
        assert await list_jobs(db, metadata={hostile: hostile}) == []


async def test_users_list_their_own_jobs_with_the_same_filters(db):
    await enqueue(db, user_id=str(OTHER))
    await enqueue(db, user_id=str(USER))
    (own,) = await fail(db, user_id=str(USER), job_type="sql-own", error="Number 5")
    await db.act_as("authenticated", USER)
    assert len(await list_jobs(db)) == 2
    found = await list_jobs(db, status="failed", reason="Number N", user_id=str(USER))
    assert [row["id"] for row in found] == [str(own)]
    assert await list_jobs(db, user_id=str(OTHER)) == []


async def test_equal_failures_are_grouped_into_one_reason(db):
    first = await fail(db, 2, error="Job 17 timed out after 3.5 s")
    await fail(db, 1, error="Job 4711 timed out after 12 s", job_type="sql-b")
    await fail(db, 1, error=f'No file "a b.png" for {uuid4()}')
    await enqueue(db)
    reasons = await db.value("select failure_reasons($1)", {"queue": db.queue})
    assert [(r["reason"], r["count"], r["job_types"]) for r in reasons] == [
        ("Job N timed out after N s", 3, ["sql-b", "sql-resize"]),
        ('No file "…" for ID', 1, ["sql-resize"]),
    ]
    newest = await db.rows(
        "select id from job_queue where queue = $1 and job_type = 'sql-b'", db.queue
    )
    assert reasons[0]["example_job_id"] == str(newest[0]["id"])
    assert reasons[0]["first_at"] < reasons[0]["last_at"]
    (only,) = await db.value("select failure_reasons($1)", {"queue": db.queue, "job_type": "sql-b"})
    assert only["count"] == 1
    assert [row["id"] for row in await list_jobs(db, reason=reasons[0]["reason"])][-1] == str(
        first[0]
    )
    error = await db.refusal("select failure_reasons($1)", {"limit": 3})
    assert error.detail == "filter.limit is not known"


async def test_the_reasons_of_pending_jobs_are_those_of_their_last_attempt(db):
    await enqueue(db)
    (job,) = await db.claim()
    await db.report(job, "failed", error="Number 5")
    await enqueue(db)
    filter = {"queue": db.queue, "status": "pending"}
    (reason,) = await db.value("select failure_reasons($1)", filter)
    assert (reason["reason"], reason["count"], reason["example_job_id"]) == (
        "Number N", 1, job["id"]
    )  # fmt: skip
    assert reason["first_at"] == reason["last_at"] is not None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("It broke.", "It broke."),
        ("HTTP 503 from 10.0.0.1:8080", "HTTP N from N:N"),
        ("can't find 'x' or `y`", 'can\'t find "…" or "…"'),
        ("the user's job at the shop's door", "the user's job at the shop's door"),
        ("token 9f8e7d6c5b4a3f2e1d0c at 0x7ffe12", "token ID at ID"),
        (None, None),
    ],
)
async def test_a_reason_has_placeholders_for_ids_numbers_and_quoted_text(db, error, reason):
    assert await db.value("select picture_queue._reason($1)", error) == reason


async def test_a_preview_counts_jobs_and_changes_none(db):
    ids = await fail(db, 3)
    for action, n in (("retry", 3), ("discard", 3), ("cancel", 0)):
        answer = await change_jobs(db, action, preview=True, queue=db.queue)
        assert answer == {"matched": n, "changed": 0, "more": False}
    assert [(await db.job(i))["status"] for i in ids] == ["failed"] * 3


async def test_a_retry_by_filter_gives_failed_jobs_another_attempt(db):
    ids = await fail(db, 3, error="Number 3")
    other = await fail(db, 1, error="another thing")
    answer = await change_jobs(db, "retry", queue=db.queue, reason="Number N")
    assert answer == {"matched": 3, "changed": 3, "more": False}
    assert {(await db.job(i))["status"] for i in ids} == {"pending"}
    assert (await db.job(other[0]))["status"] == "failed"
    assert len(await db.claim(10)) == 3


async def test_a_retry_includes_cancelled_jobs_only_on_request(db):
    job = await enqueue(db)
    await db.value("select cancel_job($1)", job)
    assert (await change_jobs(db, "retry", queue=db.queue))["matched"] == 0
    assert (await change_jobs(db, "retry", queue=db.queue, status="cancelled"))["changed"] == 1
    assert (await db.job(job))["status"] == "pending"


async def test_a_retry_by_filter_skips_jobs_whose_unique_key_is_taken(db):
    unique = {"unique": {"states": ["pending"]}}
    first, second = await fail(db, 1, options=unique), await fail(db, 1, options=unique)
    answer = await change_jobs(db, "retry", queue=db.queue)
    # The claim of each job ended its uniqueness, so both jobs become pending again.
    assert answer["changed"] == 2
    strict = {"unique": {"states": ["pending", "processing"], "by": ["n"]}}
    third = await fail(db, 1, job_type="sql-u", payload={"n": 1}, options=strict)
    fourth = await fail(db, 1, job_type="sql-u", payload={"n": 1}, options=strict)
    answer = await change_jobs(db, "retry", queue=db.queue, job_type="sql-u")
    assert answer["matched"] == 2
    assert answer["changed"] == 1
    assert (await db.job(third[0]))["status"] == "failed"
    assert (await db.job(fourth[0]))["status"] == "pending"
    assert (await change_jobs(db, "retry", queue=db.queue, job_type="sql-u"))["changed"] == 0
    assert (await db.job(first[0]))["status"] == (await db.job(second[0]))["status"] == "pending"


async def test_a_cancel_by_filter_ends_pending_jobs_and_requests_the_cancel_of_others(db):
    running, parked = await enqueue(db), await enqueue(db)
    jobs = {UUID(job["id"]): job for job in await db.claim(2)}
    await db.report(jobs[parked], "parked", delay_seconds=600)
    waiting, later = await enqueue(db), await enqueue(db, options={"delay_seconds": 9})
    answer = await change_jobs(db, "cancel", queue=db.queue)
    assert answer == {"matched": 4, "changed": 4, "more": False}
    assert (await db.job(waiting))["status"] == (await db.job(later))["status"] == "cancelled"
    assert (await db.job(running))["cancel_requested_at"] is not None
    unparked = await db.job(parked)
    assert (unparked["status"], unparked["hold"]) == ("pending", None)
    assert unparked["cancel_requested_at"] is not None
    # A second cancel changes no job, so it does not wake the workers again.
    assert (await change_jobs(db, "cancel", queue=db.queue))["changed"] == 0


async def test_a_discard_deletes_finished_jobs_and_updates_the_counts(db):
    await fail(db, 2)
    await enqueue(db)
    assert (await queue_counts(db))["failed"] == 2
    answer = await change_jobs(db, "discard", queue=db.queue)
    assert answer == {"matched": 2, "changed": 2, "more": False}
    after = await queue_counts(db)
    assert (after["failed"], after["pending"]) == (0, 1)
    assert len(await list_jobs(db)) == 1
    await db.value("select picture_queue._aggregate_depth(100000)")
    assert (await queue_counts(db))["failed"] == 0


async def test_one_job_is_discarded_by_its_id(db):
    first, second = await fail(db, 2)
    assert (await change_jobs(db, "discard", job_ids=[str(first)]))["changed"] == 1
    assert [UUID(row["id"]) for row in await list_jobs(db)] == [second]


async def test_a_discard_changes_neither_batches_nor_dependent_jobs(db):
    batch = await db.value(
        "select enqueue_batch($1, $2)",
        [
            {"job_type": "sql-resize", "queue": db.queue, "max_attempts": 1},
            {"job_type": "sql-resize", "queue": db.queue},
        ],
        {"job_type": "sql-after", "queue": db.queue},
    )
    first, second = await db.claim(2)
    child = await enqueue(
        db, options={"depends_on": [first["id"], second["id"]], "on_parent_failure": "run"}
    )
    await db.report(first, "failed", retryable=False)
    assert (await change_jobs(db, "discard", queue=db.queue))["changed"] == 1
    await db.report(second, "completed")
    assert (await db.job(child))["hold"] is None
    after = await db.value("select get_batch($1)", UUID(batch["batch_id"]))
    assert (after["failed"], after["completed"], after["open"]) == (1, 1, 0)
    assert after["callback_job_id"]


async def test_a_call_changes_at_most_limit_jobs_and_reports_if_more_are_left(db):
    await fail(db, 3)
    answer = await change_jobs(db, "discard", queue=db.queue, limit=2)
    assert answer == {"matched": 3, "changed": 2, "more": True}
    answer = await change_jobs(db, "discard", queue=db.queue, limit=2)
    assert answer == {"matched": 1, "changed": 1, "more": False}


async def test_one_call_changes_ten_thousand_jobs(db):
    jobs = [{"job_type": "sql-resize", "queue": db.queue}] * 10001
    await db.value("select enqueue_jobs($1)", jobs)
    answer = await change_jobs(db, "cancel", queue=db.queue)
    assert answer == {"matched": 10001, "changed": 10000, "more": True}
    assert (await queue_counts(db))["cancelled"] == 10000
    answer = await change_jobs(db, "retry", queue=db.queue, status="cancelled")
    assert answer == {"matched": 10000, "changed": 10000, "more": False}
    assert (await queue_counts(db))["pending"] == 10001


@pytest.mark.parametrize(
    ("action", "filters", "detail"),
    [
        ("drop", {"queue": "q"}, "action is 'drop'"),
        (None, {"queue": "q"}, "action is NULL"),
        ("discard", {}, "filter selects every job"),
        ("discard", None, "filter selects every job"),
        ("cancel", {"limit": 5}, "filter selects every job"),
        ("cancel", {"queue": None}, "filter selects every job"),
        ("cancel", {"metadata": {}}, "filter selects every job"),
        ("discard", {"metadata": {}, "tag": None, "limit": 5}, "filter selects every job"),
        ("discard", {"created_before": "infinity"}, "filter selects every job"),
        ("retry", {"created_after": "-Infinity"}, "filter selects every job"),
        ("retry", {"queue": "q", "limit": 0}, "filter.limit is 0, not 1 to 10000"),
        ("retry", {"queue": "q", "limit": 10001}, "filter.limit is 10001, not 1 to 10000"),
        ("retry", {"queue": "q", "before_seq": 5}, "filter.before_seq is not known"),
    ],
)
async def test_invalid_arguments_of_a_change_are_refused(db, action, filters, detail):
    error = await db.refusal("select change_jobs($1, $2)", action, filters)
    assert error.message.startswith("PQ_INVALID_ARGUMENT")
    assert error.detail == detail


async def test_change_jobs_skips_a_locked_job(db, stack):
    queue = f"{db.queue}-held"
    blocker = await asyncpg.connect(stack.db_url)
    caller = await asyncpg.connect(stack.db_url)
    try:
        await blocker.execute("select enqueue_job('sql-held', queue => $1)", queue)
        await blocker.execute("select enqueue_job('sql-held', queue => $1)", queue)
        lock = blocker.transaction()
        await lock.start()
        await blocker.execute(
            "select from job_queue where queue = $1 order by seq limit 1 for update", queue
        )
        sql = "select change_jobs($1, $2)"
        answer = json.loads(
            await caller.fetchval(sql, "cancel", json.dumps({"queue": queue}), timeout=10)
        )
        assert (answer["matched"], answer["changed"]) == (2, 1)
        await lock.rollback()
        answer = json.loads(await caller.fetchval(sql, "cancel", json.dumps({"queue": queue})))
        assert answer["changed"] == 1
    finally:
        await caller.execute("select change_jobs('discard', $1)", json.dumps({"queue": queue}))
        await blocker.close()
        await caller.close()


async def list_pages(db, filters):
    """List the jobs of a filter page by page; return the `seq` of each job."""
    found, last = [], {}
    while rows := await db.value("select list_jobs($1)", {**filters, **last}):
        found += [row["seq"] for row in rows]
        last = {"before_seq": found[-1]}
    return found


@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ({}, "true"),
        ({"status": "processing"}, "status = 'processing'"),
        ({"status": "failed"}, "status = 'failed'"),
        ({"hold": "waiting"}, "hold = 'waiting'"),
        ({"job_type": "sql-7"}, "job_type = 'sql-7'"),
        ({"job_type": "sql-7", "status": "pending"}, "job_type = 'sql-7' and status = 'pending'"),
    ],
)
@pytest.mark.parametrize("queues", [1, 3])
async def test_pages_contain_every_job_of_the_filter_newest_first(db, filters, condition, queues):
    # One job in 40 gets each of the states 0 to 7; all other jobs are completed.
    await db.run(
        """insert into job_queue (queue, job_type, status, hold, finished_at)
        select $1 || i % 3, 'sql-' || i % 11, s.status, s.hold,
          case when s.status in ('completed', 'failed', 'cancelled') then now() end
        from (select i, abs(hashint4(i)) % 40 as n from generate_series(1, 900) i) i
        join (values (0, 'failed', null), (1, 'cancelled', null), (2, 'processing', null),
          (3, 'processing', 'parked'), (4, 'pending', 'scheduled'), (5, 'pending', 'waiting'),
          (6, 'pending', 'blocked'), (7, 'pending', null), (8, 'completed', null)
        ) s (n, status, hold) on s.n = least(i.n, 8) order by i""",
        db.queue,
    )
    if queues == 1:
        filters = {**filters, "queue": f"{db.queue}1"}
    expected = await db.rows(
        f"select seq from job_queue where queue like $1 and {condition} order by seq desc",
        f"{db.queue}{1 if queues == 1 else '_'}",
    )
    found = await list_pages(db, {**filters, "limit": 7})
    if queues == 3:  # Other tests may have left jobs of other queues.
        ours = await db.rows("select seq from job_queue where queue like $1", f"{db.queue}_")
        ours = {row["seq"] for row in ours}
        found = [seq for seq in found if seq in ours]
    assert found == [row["seq"] for row in expected]
    assert found


@pytest.mark.parametrize("field", ["queue", "user_id", "batch_id"])
async def test_a_page_ends_at_eight_mebibytes(db, field):
    """Each of the 20 results has 1 MiB; without the bound a page of 1,000 would have 1 GiB."""
    batch = uuid4()
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at, user_id, batch_id, result)
        select $1, 'sql-large', 'completed', now(), $2, $3,
          to_jsonb(repeat(md5(i::text), 32768)) from generate_series(1, 20) i""",
        db.queue,
        USER,
        batch,
    )
    value = {"queue": db.queue, "user_id": str(USER), "batch_id": str(batch)}[field]
    filters = {"limit": 1000, field: value, "job_type": "sql-large"}
    rows = await db.value("select list_jobs($1)", filters)
    assert 8 <= len(rows) <= 9
    found = await list_pages(db, filters)
    assert len(found) == 20
    assert found == sorted(found, reverse=True)


async def test_a_job_larger_than_a_page_is_returned_alone(db):
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at, result)
        select $1, 'sql-large', 'completed', now(), to_jsonb(repeat('ab', 5000000))
        from generate_series(1, 2)""",
        db.queue,
    )
    assert len(await db.value("select list_jobs($1)", {"queue": db.queue})) == 1
    assert len(await list_pages(db, {"queue": db.queue})) == 2


async def test_filters_use_an_index(db):
    """Explain the query of each filter: a sequential scan would read all 20,000 jobs."""
    await db.run(
        """insert into job_queue (queue, job_type, status, finished_at, user_id)
        select $1, 'sql-many', case when i % 1000 = 0 then 'failed' else 'completed' end,
          now() - i * interval '1 second', case when i % 500 = 0 then $2::uuid end
        from generate_series(1, 20000) i""",
        db.queue,
        USER,
    )
    await db.run("analyze job_queue")
    for filters, index in (
        ({"status": "failed"}, "job_queue_finished|job_queue_listed"),
        ({"queue": db.queue, "status": "pending"}, "job_queue_listed"),
        ({"status": "processing"}, "job_queue_leased"),
        ({"hold": "parked"}, "job_queue_parked|job_queue_due"),
        ({"hold": "scheduled"}, "job_queue_due"),
        ({"hold": "blocked"}, "job_queue_blocked"),
        ({"user_id": str(USER)}, "job_queue_owned"),
        ({"batch_id": str(uuid4())}, "job_queue_batch"),
        ({"finished_after": "2999-01-01"}, "job_queue_finished"),
        ({"job_ids": [str(uuid4())]}, "job_queue_pkey"),
    ):
        where = await db.value("select picture_queue._jobs_where($1)", filters)
        sql = f"explain select * from job_queue j where {where} order by seq desc limit 100"
        plan = "\n".join(row["QUERY PLAN"] for row in await db.rows(sql))
        assert any(name in plan for name in index.split("|")), f"{filters}\n{plan}"
        assert "Seq Scan" not in plan, f"{filters}\n{plan}"


LISTS = {
    "list_queues": ("set_queue('{}')", "name"),
    "queue_counts": ("set_queue('{}')", "queue"),
    "list_limits": ("set_limit('{}', 1)", "key"),
    "list_tenants": ("set_tenant('{}', 2)", "tenant"),
    "list_schedules": (
        'set_schedule(\'{}\', \'{{"every_seconds": 60, "job_type": "t"}}\')',
        "name",
    ),
}


@pytest.mark.parametrize("function", LISTS)
async def test_a_list_of_names_is_paginated(db, function):
    create, key = LISTS[function]
    names = [f"{db.queue}-{i}" for i in range(5)]
    for name in names:
        await db.value(f"select {create.format(name)}")
    found, after = [], db.queue
    while page := await db.value(f"select {function}($1)", {"limit": 2, "after": after}):
        assert len(page) <= 2
        found += [row[key] for row in page]
        after = found[-1]
    assert [name for name in found if name in names] == names
    assert len(await db.value(f"select {function}(null)")) >= 5
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"after": 7}, {"before": "a"}):
        refused = await db.refusal(f"select {function}($1)", wrong)
        assert refused.message.startswith("PQ_INVALID_ARGUMENT: "), wrong
