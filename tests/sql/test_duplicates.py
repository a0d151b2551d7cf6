"""Duplicates: repeated calls, unique keys, and replaced jobs."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from .conftest import enqueue_items, transaction


def outcomes(answer: list[dict[str, Any]]) -> list[str]:
    return [job["outcome"] for job in answer]


async def count_by_state(db: Any, queue: str) -> dict[str, int]:
    """Return the counted jobs of a queue by hold, or by status for jobs without a hold."""
    rows = await db.rows(
        """select coalesce(hold, status) as state, sum(n)::integer as n from (
          select queue, status, hold, n from picture_queue.depth
          union all select queue, status, hold, n from picture_queue.depth_change) d
        where queue = $1 group by 1 having sum(n) <> 0""",
        queue,
    )
    return {row["state"]: row["n"] for row in rows}


# A repeated call finds its jobs, even if the queue, batch or parent has changed since.


@pytest.fixture(params=["job_id", "idempotency_key"])
def key(request) -> dict[str, str]:
    return {request.param: str(uuid4())}


async def test_a_repeated_call_succeeds_on_a_draining_queue(db, key):
    first = await enqueue_items(db, key)
    await db.value("select drain_queue($1)", db.queue)
    assert await enqueue_items(db, key) == [{**first[0], "outcome": "existing"}]
    jobs = [{"job_type": "sql-resize", "queue": db.queue, **item} for item in (key, {})]
    refused = await db.refusal("select enqueue_jobs($1)", jobs)
    assert refused.message.startswith("PQ_QUEUE_DRAINING")


async def test_a_repeated_call_succeeds_after_its_queue_was_deleted(db, key):
    first = await enqueue_items(db, key)
    await db.run("delete from picture_queue.queue where name = $1", db.queue)
    await db.value('select set_setting(\'{"unknown_queue": "refuse"}\')')
    assert await enqueue_items(db, key) == [{**first[0], "outcome": "existing"}]
    assert await db.value("select count(*) from picture_queue.queue where name = $1", db.queue) == 0


async def test_a_repeated_call_succeeds_after_its_batch_finished(db, key):
    batch = (
        await db.value("select enqueue_batch($1)", [{"job_type": "sql-resize", "queue": db.queue}])
    )["batch_id"]
    item = {**key, "options": {"batch_id": batch}}
    first = await enqueue_items(db, item)
    for job in await db.claim(2):
        await db.report(job, "completed")
    assert await enqueue_items(db, item) == [{**first[0], "outcome": "existing"}]
    refused = await db.refusal("select enqueue_job('a', options => $1)", {"batch_id": batch})
    assert refused.message.startswith("PQ_CONFLICT")


async def test_a_repeated_call_succeeds_after_its_parent_was_discarded(db, key):
    (parent,) = await enqueue_items(db, {})
    item = {**key, "options": {"depends_on": [parent["job_id"]]}}
    first = await enqueue_items(db, item)
    (job,) = await db.claim()
    await db.report(job, "completed")
    await db.value("select change_jobs('discard', $1)", {"queue": db.queue, "status": "completed"})
    assert await enqueue_items(db, item) == [{**first[0], "outcome": "existing"}]


async def test_a_new_child_waits_for_an_existing_parent_of_the_same_call(db, key):
    parent = {**key, "job_id": key.get("job_id", str(uuid4()))}
    (first,) = await enqueue_items(db, parent)
    child = {"options": {"depends_on": [parent["job_id"]]}}
    answer = await enqueue_items(db, parent, child)
    assert outcomes(answer) == ["existing", "created"]
    assert (await db.job(answer[1]["job_id"]))["hold"] == "waiting"
    (job,) = await db.claim(5)
    assert job["id"] == first["job_id"]


async def test_a_repeated_generation_succeeds_after_its_model_was_disabled(db):
    options = {"idempotency_key": uuid4().hex}
    call = "select start_generation('a cat', options => $1)"
    first = await db.value(call, options)
    await db.run("update picture_queue.model set enabled = false")
    assert await db.value(call, options) == first


async def test_a_call_with_thousands_of_jobs_can_be_repeated(db):
    keys = [{"idempotency_key": f"{n}"} for n in range(8000)]
    first = await enqueue_items(db, *keys)
    again = await enqueue_items(db, *keys)
    assert [job["job_id"] for job in again] == [job["job_id"] for job in first]
    assert set(outcomes(again)) == {"existing"}


@pytest.mark.parametrize("kind", ["job_id", "idempotency_key", "unique"])
async def test_other_jobs_of_a_call_with_a_duplicate_are_inserted_once(db, kind):
    def item(n: int) -> dict[str, Any]:
        if kind == "unique":
            return {"payload": {"n": n}, "options": {"unique": {}}}
        return {kind: str(UUID(int=n))}

    await db.run("""create table public.written (n serial)""")
    await db.run(
        """create function public.count_rows() returns trigger language plpgsql as $$
        begin perform nextval('public.written_n_seq'); return new; end $$"""
    )
    await db.run(
        """create trigger count_rows before insert on public.job_queue
        for each row execute function public.count_rows()"""
    )
    await enqueue_items(db, item(99))
    answer = await enqueue_items(db, *(item(n) for n in range(100)))
    assert outcomes(answer) == ["created"] * 99 + ["existing"]
    # A sequence is not rolled back, so it also counts rows of undone subtransactions.
    assert await db.value("select last_value from public.written_n_seq") == 100


# Unique keys.


@pytest.mark.parametrize(
    ("by", "hint"),
    [
        (["nofield"], ""),
        (["page", "user.id"], ', such as "user"'),
        (["user.id"], ', such as "user"'),
        (["Page"], ""),
    ],
)
async def test_a_unique_field_that_the_payload_lacks_is_refused(db, by, hint):
    item = {"payload": {"page": 1, "user": {"id": 7}}, "options": {"unique": {"by": by}}}
    jobs = [{"job_type": "a", "queue": db.queue, **item}]
    refused = await db.refusal("select enqueue_jobs($1)", jobs)
    assert refused.detail == (
        f'options.unique.by has "{by[-1]}", which is not a key of the payload: '
        f"name top-level keys{hint}"
    )


async def test_an_empty_list_of_unique_fields_is_refused(db):
    options = {"unique": {"by": []}}
    refused = await db.refusal("select enqueue_job('a', options => $1)", options)
    assert refused.detail.startswith("options.unique.by is []")


@pytest.mark.parametrize(
    ("payload", "other_payload"),
    [
        ('{"n": 1}', '{"n": 1.0}'),
        ('{"n": 1e2}', '{"n": 100.000}'),
        ('{"a": [1.50, {"b": -0.0}]}', '{"a": [1.5, {"b": 0}]}'),
        ('{"a": 1, "bb": 2}', '{"bb": 2.0, "a": 1.0}'),
    ],
)
@pytest.mark.parametrize("by", ["whole payload", "all keys"])
async def test_payloads_that_are_equal_as_jsonb_are_duplicates(db, payload, other_payload, by):
    assert await db.value("select $1::text::jsonb = $2::text::jsonb", payload, other_payload)
    sql = "select enqueue_job('a', $1::text::jsonb, queue => $2, options => $3)"
    names = await db.value("select array(select jsonb_object_keys($1::text::jsonb))", payload)
    options = {"unique": {"by": names} if by == "all keys" else {}}
    first = await db.value(sql, payload, db.queue, options)
    assert await db.value(sql, other_payload, db.queue, options) == first


@pytest.mark.parametrize(
    ("payload", "other_payload"),
    [('{"n": "1.0"}', '{"n": "1.00"}'), ('{"n": 10}', '{"n": 1}'), ('{"n": 1}', '{"n": "1"}')],
)
async def test_payloads_that_differ_as_jsonb_are_not_duplicates(db, payload, other_payload):
    sql = "select enqueue_job('a', $1::text::jsonb, queue => $2, options => '{\"unique\": {}}')"
    first = await db.value(sql, payload, db.queue)
    assert await db.value(sql, other_payload, db.queue) != first


def unique(n: int, on_conflict: str, **options: Any) -> dict[str, Any]:
    """Return a job that is unique by `n`; `v` differs in every call."""
    rule = {"by": ["n"], "on_conflict": on_conflict}
    return {"payload": {"n": n, "v": uuid4().hex}, "options": {"unique": rule, **options}}


@pytest.mark.parametrize("hold", ["", "scheduled", "blocked", "waiting"])
async def test_replace_into_another_queue_moves_the_job(db, hold):
    """Replace a job in each state; the new queue returns the job, and both counts are right."""
    options: dict[str, Any] = {}
    if hold == "scheduled":
        options = {"delay_seconds": 60}
    elif hold == "waiting":
        options = {"depends_on": [(await enqueue_items(db, {"queue": "other"}))[0]["job_id"]]}
    elif hold == "blocked":
        await db.value("select pause_key('k:1')")
        options = {"limit_keys": ["k:1"]}
    (first,) = await enqueue_items(db, unique(1, "ignore", **options))
    if hold == "blocked":
        assert await db.claim() == []
    assert await count_by_state(db, db.queue) == {hold or "pending": 1}

    old, db.queue = db.queue, f"{db.queue}-new"
    answer = await enqueue_items(db, unique(1, "replace"))
    assert answer == [{"job_id": first["job_id"], "outcome": "replaced"}]
    assert await count_by_state(db, old) == {}
    state = "waiting" if hold == "waiting" else "pending"
    assert await count_by_state(db, db.queue) == {state: 1}
    row = await db.job(first["job_id"])
    assert (row["queue"], row["hold"]) == (db.queue, "waiting" if hold == "waiting" else None)
    if hold != "waiting":
        assert [job["id"] for job in await db.claim()] == [first["job_id"]]


async def test_a_job_replaced_into_a_fair_queue_gets_a_place_in_its_order(db):
    (first,) = await enqueue_items(db, unique(1, "ignore"))
    db.queue += "-fair"
    await db.value("select set_queue($1, $2)", db.queue, {"fair_share": True})
    await enqueue_items(db, *({"options": {"tenant": "busy"}} for _ in range(3)))
    await enqueue_items(db, unique(1, "replace", tenant="quiet"))
    assert (await db.job(first["job_id"]))["tenant"] == "quiet"
    assert first["job_id"] in [job["id"] for job in await db.claim(2)]


async def test_the_last_of_several_duplicates_in_one_call_wins(db):
    (first,) = await enqueue_items(db, unique(1, "ignore"))
    items = [
        unique(1, "debounce"),
        unique(1, "replace", tags=["a"]),
        unique(1, "replace", tags=["b"]),
        unique(1, "ignore"),
        unique(1, "debounce", delay_seconds=60),
        unique(1, "debounce"),
    ]
    answer = await enqueue_items(db, *items)
    assert {job["job_id"] for job in answer} == {first["job_id"]}
    assert outcomes(answer) == [
        "debounced", "replaced", "replaced", "existing", "debounced", "debounced",
    ]  # fmt: skip
    row = await db.job(first["job_id"])
    assert (row["payload"], row["tags"]) == (items[-1]["payload"], ["b"])
    assert (row["hold"], await count_by_state(db, db.queue)) == (None, {"pending": 1})


@pytest.mark.parametrize("on_conflict", ["replace", "debounce"])
async def test_thousands_of_duplicates_are_replaced_in_one_call(db, on_conflict):
    first = await enqueue_items(db, *(unique(n, on_conflict) for n in range(3000)))
    again = await enqueue_items(db, *(unique(n, on_conflict) for n in range(3000)))
    assert [job["job_id"] for job in again] == [job["job_id"] for job in first]
    assert set(outcomes(again)) == {f"{on_conflict}d"}


@pytest.mark.parametrize("on_conflict", ["ignore", "replace", "debounce"])
async def test_thousands_of_duplicates_are_quick_with_statistics_of_an_empty_table(
    own_database, on_conflict
):
    """Check that plans made for an empty table do not compare each pair of jobs."""
    async with transaction(own_database) as db:
        items = [unique(n, on_conflict) for n in range(3000)]
        await db.run("insert into job_queue (job_type) select 'x' from generate_series(1, 5000)")
        await db.run("delete from job_queue")
        await db.run("analyze job_queue")
        await enqueue_items(db, *items)
        async with asyncio.timeout(20):
            assert set(outcomes(await enqueue_items(db, *items))).isdisjoint({"created"})


async def test_chains_of_duplicates_in_one_call_are_resolved(db):
    keys = [str(uuid4()) for _ in range(4)]
    payloads = [{"id": str(uuid4())} for _ in range(4)]
    unique_payload = {"unique": {}}
    answer = await enqueue_items(
        db,
        {"payload": payloads[0], "options": unique_payload},
        {"payload": payloads[0], "options": unique_payload, "idempotency_key": keys[0]},
        {"payload": payloads[1], "options": unique_payload, "idempotency_key": keys[0]},
        {"payload": payloads[1], "options": unique_payload, "idempotency_key": keys[1]},
        {"payload": payloads[2]},
    )
    expected = ["created", "existing", "created", "existing", "created"]
    assert outcomes(answer) == expected
    assert [job["job_id"] for job in answer][1::2] == [answer[0]["job_id"], answer[2]["job_id"]]
    assert await count_by_state(db, db.queue) == {"pending": 3}


async def test_a_unique_violation_in_a_trigger_is_reported(db):
    await db.run("create table public.seen (job_type text primary key)")
    await db.run(
        """create function public.note() returns trigger language plpgsql as $$
        begin insert into public.seen values (new.job_type); return new; end $$"""
    )
    await db.run(
        """create trigger note before insert on public.job_queue
        for each row execute function public.note()"""
    )
    for _ in range(2):
        refused = await db.refusal(
            "select enqueue_jobs($1)", [{"job_type": "twice"}, {"job_type": "twice"}]
        )
        assert refused.message.startswith("PQ_CONFLICT")
        assert 'SQLSTATE 23505: duplicate key value violates unique constraint "seen_pkey"' in (
            refused.detail
        )
    assert await db.value("select count(*) from public.job_queue where job_type = 'twice'") == 0
