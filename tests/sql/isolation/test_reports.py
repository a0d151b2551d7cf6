"""Reports in which one outcome is malformed, repeated or cannot be written."""

from typing import Any

import pytest

from . import internals
from .world import TYPE, Refused, World

pytestmark = pytest.mark.timeout(120)


async def run_jobs(world: World, count: int, **given: Any) -> list[str]:
    made = [await world.enqueue(TYPE, given) for _ in range(count)]
    await world.claim()
    return made


async def report(world: World, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return (await world.call("select report_jobs($1)", items))["outcomes"]


async def add_trigger(world: World, sqlstates: list[str]) -> None:
    """Refuse the updates of jobs with these errors in turn, and then always with the last one."""
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
    assert [one["outcome"] for one in answers] == ["ok", "refused"]
    assert answers[1]["error"].startswith("PQ_INVALID_ARGUMENT")
    assert await internals.failed_steps(world.owner) == []


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
        await world.ask(
            "select complete_job($1::text::uuid, lease_id => $2::text::uuid)",
            job, lease["lease_id"],
        )  # fmt: skip
