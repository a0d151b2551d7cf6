"""Reports in which one outcome is malformed, repeated or cannot be written."""

from typing import Any
from uuid import uuid4

import pytest

from . import internals
from .world import QUEUE, TYPE, Refused, World

pytestmark = pytest.mark.timeout(120)


async def run_jobs(world: World, count: int, **given: Any) -> list[str]:
    created = [await world.enqueue(TYPE, given) for _ in range(count)]
    await world.claim()
    return created


async def report(world: World, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return (await world.call("select report_jobs($1)", items))["outcomes"]


async def add_trigger(world: World, sqlstates: list[str]) -> None:
    """Create a trigger that raises these errors in turn, and then always the last one."""
    await world.owner.execute(
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
async def test_only_the_outcome_with_a_wrong_type_is_refused(world, bad):
    jobs = await run_jobs(world, 2)
    good, other = [{**lease, "outcome": "completed"} for lease in world.leases(jobs)]
    answers = await report(world, [good, {**other, **bad}])
    assert [item["outcome"] for item in answers] == ["ok", "refused"]
    assert answers[1]["error"].startswith("PQ_INVALID_ARGUMENT")
    assert await internals.failed_steps(world.owner) == []


@pytest.mark.parametrize("bad", [None, 1, "x", []])
async def test_an_outcome_that_is_not_an_object_does_not_affect_others(world, bad):
    [job] = await run_jobs(world, 1)
    [lease] = world.leases([job])
    answers = await report(world, [{**lease, "outcome": "completed"}, bad])
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
async def test_a_refused_claim_does_not_undo_the_report(world, claim):
    [job] = await run_jobs(world, 1)
    [lease] = world.leases([job])
    items = [{**lease, "outcome": "completed"}]
    answer = await world.call("select report_jobs($1, $2)", items, claim)
    assert [item["outcome"] for item in answer["outcomes"]] == ["ok"]
    assert answer["jobs"] == []
    assert answer["claim_error"].startswith("PQ_INVALID_ARGUMENT: ")
    assert await world.states([job]) == ["completed"]


async def test_a_busy_claim_does_not_undo_the_report(world):
    [job] = await run_jobs(world, 1)
    [lease] = world.leases([job])
    claim = {"worker": "w", "queues": [QUEUE], "job_types": [TYPE], "request_id": str(uuid4())}
    await world.open_transaction(
        "select claim_jobs('w', $1, $2, request_id => $3::text::uuid)",
        [QUEUE], [TYPE], claim["request_id"],
    )  # fmt: skip
    items = [{**lease, "outcome": "completed"}]
    answer = await world.call("select report_jobs($1, $2)", items, claim)
    assert [item["outcome"] for item in answer["outcomes"]] == ["ok"]
    assert answer["claim_error"].startswith("PQ_BUSY: ")


@pytest.mark.parametrize("first", ["ended lease", "same lease"])
async def test_a_stale_or_repeated_outcome_pauses_nothing(world, first):
    [job] = await run_jobs(world, 1)
    [lease] = world.leases([job])
    late = {**lease, "outcome": "snoozed", "delay_seconds": 60, "pause_key": f"queue:{QUEUE}"}
    if first == "ended lease":
        late["lease_id"] = str(uuid4())
    answers = await report(world, [{**lease, "outcome": "completed"}, late])
    assert answers[0]["outcome"] == "ok"
    queues = await world.call("select list_queues()")
    [queue] = [queue for queue in queues if queue["name"] == QUEUE]
    assert not queue["paused"]


async def test_a_permanent_error_of_class_55_is_refused_and_not_busy(world):
    [job] = await run_jobs(world, 1)
    await add_trigger(world, ["55000"])
    assert await world.report([job]) == ["refused"]


async def test_an_error_of_a_trigger_is_not_reported_as_a_wrong_type(world):
    [job] = await run_jobs(world, 1)
    await add_trigger(world, ["22012"])
    assert await world.report([job]) == ["refused"]
    [step] = await internals.failed_steps(world.owner)
    assert (step["kind"], step["subject"]) == ("report", job)


async def test_the_first_of_repeated_outcomes_counts(world):
    jobs = await run_jobs(world, 20)
    items = [
        {**lease, "outcome": outcome, "result": {"n": n}, "error": f"n {n}", "delay_seconds": 9}
        for n, outcome in enumerate(["completed", "failed", "snoozed"] * 4)
        for lease in world.leases(jobs)[:: -1 if n % 2 else 1]
    ]
    await report(world, items)
    rows = [await world.call("select get_job($1::text::uuid)", job) for job in jobs]
    assert [row["status"] for row in rows] == ["completed"] * 20
    assert [row["result"] for row in rows] == [{"n": 0}] * 20


async def test_the_first_of_repeated_results_counts(world):
    jobs = await run_jobs(world, 20)
    items = [
        {**lease, "outcome": "completed", "result": {"n": n}}
        for n in range(8)
        for lease in world.leases(jobs)[:: -1 if n % 2 else 1]
    ]
    await report(world, items)
    rows = [await world.call("select get_job($1::text::uuid)", job) for job in jobs]
    assert [row["result"] for row in rows] == [{"n": 0}] * 20


@pytest.mark.parametrize("outcome", ["failed", "completed", "cancelled"])
async def test_a_result_that_is_too_large_matters_only_if_the_job_completes(world, outcome):
    [job] = await run_jobs(world, 1, max_attempts=1)
    await world.owner.fetchval("""select set_setting('{"max_result_bytes": 100}')""")
    if outcome == "cancelled":
        await world.call("select cancel_job($1::text::uuid)", job)
    reported = "failed" if outcome == "failed" else "completed"
    [lease] = world.leases([job])
    item = {**lease, "outcome": reported, "result": "x" * 200, "error": "boom"}
    [answer] = await report(world, [item])
    assert answer["status"] == ("cancelled" if outcome == "cancelled" else "failed")
    error = (await world.call("select get_job($1::text::uuid)", job))["error"]
    if outcome == "completed":
        assert "max_result_bytes" in error
    else:
        assert error == ("boom" if outcome == "failed" else None)


async def test_complete_job_does_not_return_null_when_the_job_is_busy(world):
    [job] = await run_jobs(world, 1)
    [lease] = world.leases([job])
    await add_trigger(world, ["55P03"])
    with pytest.raises(Refused, match="PQ_BUSY"):
        await world.try_call(
            "select complete_job($1::text::uuid, lease_id => $2::text::uuid)",
            job, lease["lease_id"],
        )  # fmt: skip
