"""Reports in which one outcome is malformed, repeated or cannot be written."""

from typing import Any
from uuid import uuid4

import pytest

from . import internals
from .database import QUEUE, TYPE, IsolationDatabase, RefusedCall

pytestmark = pytest.mark.timeout(120)


async def run_jobs(db: IsolationDatabase, count: int, **fields: Any) -> list[str]:
    created = [await db.enqueue(TYPE, fields) for _ in range(count)]
    await db.claim()
    return created


async def report(db: IsolationDatabase, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return (await db.call("select report_jobs($1)", items))["outcomes"]


async def add_trigger(db: IsolationDatabase, sqlstates: list[str]) -> None:
    """Create a trigger that raises these errors in turn, and then always the last one."""
    await db.owner.execute(
        f"""create sequence public.tries;
        create function refuse() returns trigger language plpgsql as $$
        declare
          states text[] := '{{{",".join(sqlstates)}}}';
        begin
          raise exception 'refused by a trigger'
            using errcode = states[least(nextval('public.tries'), cardinality(states))];
        end $$;
        create trigger refuse before update on job_queue for each row execute function refuse()"""
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"job_id": "x"},
        {"lease_id": "x", "job_id": None},
        {"delay_seconds": "soon", "job_id": None},
        {"delay_seconds": "soon"},
        {"retryable": "perhaps"},
    ],
)
async def test_only_the_outcome_with_a_wrong_type_is_refused(db, bad):
    jobs = await run_jobs(db, 2)
    good, other = [{**lease, "outcome": "completed"} for lease in db.leases(jobs)]
    answers = await report(db, [good, {**other, **bad}])
    assert [item["outcome"] for item in answers] == ["ok", "refused"]
    assert answers[1]["error"].startswith("PQ_INVALID_ARGUMENT")
    assert await internals.failed_steps(db.owner) == []


@pytest.mark.parametrize("bad", [None, 1, "x", []])
async def test_an_outcome_that_is_not_an_object_does_not_affect_other_outcomes(db, bad):
    [job] = await run_jobs(db, 1)
    [lease] = db.leases([job])
    answers = await report(db, [{**lease, "outcome": "completed"}, bad])
    assert [item["outcome"] for item in answers] == ["ok", "refused"]


@pytest.mark.parametrize(
    "claim",
    [
        {"worker": "w", "queues": [QUEUE], "job_types": [TYPE], "max_jobs": 1001},
        {"worker": "w", "queues": [QUEUE], "job_types": [TYPE], "max_jobs": "many"},
        {"worker": "w", "queues": "{{", "job_types": [TYPE]},
        {},
        [],
        "x",
    ],
)
async def test_a_refused_claim_does_not_undo_the_report(db, claim):
    [job] = await run_jobs(db, 1)
    [lease] = db.leases([job])
    items = [{**lease, "outcome": "completed"}]
    answer = await db.call("select report_jobs($1, $2)", items, claim)
    assert [item["outcome"] for item in answer["outcomes"]] == ["ok"]
    assert answer["jobs"] == []
    assert answer["claim_error"].startswith("PQ_INVALID_ARGUMENT: ")
    assert await db.states([job]) == ["completed"]


async def test_a_busy_claim_does_not_undo_the_report(db):
    [job] = await run_jobs(db, 1)
    [lease] = db.leases([job])
    claim = {"worker": "w", "queues": [QUEUE], "job_types": [TYPE], "request_id": str(uuid4())}
    await db.open_transaction(
        "select claim_jobs('w', $1, $2, request_id => $3::text::uuid)",
        [QUEUE], [TYPE], claim["request_id"],
    )  # fmt: skip
    items = [{**lease, "outcome": "completed"}]
    answer = await db.call("select report_jobs($1, $2)", items, claim)
    assert [item["outcome"] for item in answer["outcomes"]] == ["ok"]
    assert answer["claim_error"].startswith("PQ_BUSY: ")


@pytest.mark.parametrize("lease_of_second", ["ended lease", "same lease"])
async def test_a_stale_or_repeated_outcome_pauses_nothing(db, lease_of_second):
    [job] = await run_jobs(db, 1)
    [lease] = db.leases([job])
    second = {**lease, "outcome": "snoozed", "delay_seconds": 60, "pause_key": f"queue:{QUEUE}"}
    if lease_of_second == "ended lease":
        second["lease_id"] = str(uuid4())
    answers = await report(db, [{**lease, "outcome": "completed"}, second])
    assert answers[0]["outcome"] == "ok"
    queues = await db.call("select list_queues()")
    [queue] = [queue for queue in queues if queue["name"] == QUEUE]
    assert not queue["paused"]


async def test_a_permanent_error_of_class_55_is_refused_and_not_busy(db):
    [job] = await run_jobs(db, 1)
    await add_trigger(db, ["55000"])
    assert await db.report([job]) == ["refused"]


async def test_an_error_of_a_trigger_is_not_reported_as_a_wrong_type(db):
    [job] = await run_jobs(db, 1)
    await add_trigger(db, ["22012"])
    assert await db.report([job]) == ["refused"]
    [step] = await internals.failed_steps(db.owner)
    assert (step["kind"], step["subject"]) == ("report", job)


async def test_the_first_of_repeated_outcomes_counts(db):
    jobs = await run_jobs(db, 20)
    items = [
        {**lease, "outcome": outcome, "result": {"n": n}, "error": f"n {n}", "delay_seconds": 9}
        for n, outcome in enumerate(["completed", "failed", "snoozed"] * 4)
        for lease in db.leases(jobs)[:: -1 if n % 2 else 1]
    ]
    await report(db, items)
    rows = [await db.call("select get_job($1::text::uuid)", job) for job in jobs]
    assert [row["status"] for row in rows] == ["completed"] * 20
    assert [row["result"] for row in rows] == [{"n": 0}] * 20


async def test_the_first_of_repeated_results_counts(db):
    jobs = await run_jobs(db, 20)
    items = [
        {**lease, "outcome": "completed", "result": {"n": n}}
        for n in range(8)
        for lease in db.leases(jobs)[:: -1 if n % 2 else 1]
    ]
    await report(db, items)
    rows = [await db.call("select get_job($1::text::uuid)", job) for job in jobs]
    assert [row["result"] for row in rows] == [{"n": 0}] * 20


@pytest.mark.parametrize("outcome", ["failed", "completed", "cancelled"])
async def test_a_result_that_is_too_large_matters_only_if_the_job_completes(db, outcome):
    [job] = await run_jobs(db, 1, max_attempts=1)
    await db.owner.fetchval("""select set_setting('{"max_result_bytes": 100}')""")
    if outcome == "cancelled":
        await db.call("select cancel_job($1::text::uuid)", job)
    reported = "failed" if outcome == "failed" else "completed"
    [lease] = db.leases([job])
    item = {**lease, "outcome": reported, "result": "x" * 200, "error": "boom"}
    [answer] = await report(db, [item])
    assert answer["status"] == ("cancelled" if outcome == "cancelled" else "failed")
    error = (await db.call("select get_job($1::text::uuid)", job))["error"]
    if outcome == "completed":
        assert "max_result_bytes" in error
    else:
        assert error == ("boom" if outcome == "failed" else None)


async def test_complete_job_does_not_return_null_when_the_job_is_busy(db):
    [job] = await run_jobs(db, 1)
    [lease] = db.leases([job])
    await add_trigger(db, ["55P03"])
    with pytest.raises(RefusedCall, match="PQ_BUSY"):
        await db.try_call(
            "select complete_job($1::text::uuid, lease_id => $2::text::uuid)",
            job, lease["lease_id"],
        )  # fmt: skip
