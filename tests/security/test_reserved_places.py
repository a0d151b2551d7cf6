"""A scheduled job gets its place when it is due, after the jobs enqueued before that time."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sql.conftest import Database, transaction

ORDERS = {
    "plain": {"fair_share": False, "aging_seconds": None},
    "aging": {"fair_share": False, "aging_seconds": 60},
    "fair": {"fair_share": True, "aging_seconds": None},
}


@pytest.fixture(params=ORDERS)
async def db(sandbox: Any, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """A queue with each order of claims, in a transaction that is rolled back."""
    async with transaction(sandbox.db_url) as database:
        await database.value("select set_queue($1, $2)", database.queue, ORDERS[request.param])
        yield database


async def enqueue(db: Database, name: str, **arguments: Any) -> None:
    await db.enqueue(payload={"name": name}, **arguments)


async def claim_names(db: Database) -> list[str]:
    return [job["payload"]["name"] for job in await db.claim(100)]


async def time_in_seconds(db: Database, seconds: float) -> datetime:
    now: datetime = await db.value("select picture_queue._now()")
    return now + timedelta(seconds=seconds)


async def test_a_scheduled_job_gets_its_place_when_it_is_due(db: Database):
    await enqueue(db, "reserved", scheduled_for=await time_in_seconds(db, 10))
    await enqueue(db, "delayed", options={"delay_seconds": 10})
    await enqueue(db, "before it is due")
    await db.pass_time(5)
    await enqueue(db, "just before it is due", max_attempts=2)
    await db.pass_time(10)
    await enqueue(db, "after it is due")
    assert await claim_names(db) == [
        "before it is due", "just before it is due", "reserved", "delayed", "after it is due",
    ]  # fmt: skip


async def test_a_time_in_the_past_gives_no_earlier_place(db: Database):
    await enqueue(db, "first")
    await enqueue(db, "backdated", scheduled_for=datetime(2000, 1, 1, tzinfo=UTC))
    assert await claim_names(db) == ["first", "backdated"]


async def test_jobs_of_one_call_get_their_places_by_the_same_rule(db: Database):
    later = await time_in_seconds(db, 10)
    jobs = [
        {"job_type": "sql-resize", "queue": db.queue, "payload": {"name": str(n)}} for n in range(3)
    ]
    jobs[0]["scheduled_for"] = later.isoformat()
    await db.value("select enqueue_jobs($1)", jobs)
    await db.pass_time(5)
    await enqueue(db, "3")
    await db.pass_time(10)
    assert await claim_names(db) == ["1", "2", "3", "0"]


async def test_a_scheduled_generation_reserves_no_place(sandbox: Any):
    """End users may call `start_generation`, also with a time."""
    async with transaction(sandbox.db_url) as db:
        names = {}
        for name, options in (
            ("reserved", {"scheduled_for": (await time_in_seconds(db, 10)).isoformat()}),
            ("now", {}),
        ):
            started = await db.value(
                "select start_generation($1, options => $2)",
                name,
                options | {"user_id": "00000000-0000-4000-8000-000000000001"},
            )
            names[started["job_id"]] = name
        await db.pass_time(20)
        jobs = await db.value("select claim_jobs('w', '{default}', '{generate-image}', 1000, 60)")
        order = [names[job["id"]] for job in jobs if job["id"] in names]
        assert order == ["now", "reserved"]


@pytest.mark.parametrize("db", ["plain"], indirect=True)
async def test_a_replaced_job_keeps_its_place_unless_it_is_postponed(db: Database):
    def unique(by: str) -> dict[str, Any]:
        return {"unique": {"by": [by], "on_conflict": "replace"}}

    for name, key in (("kept", "a"), ("postponed", "b")):
        await db.enqueue(payload={"name": name, key: 1}, options=unique(key))
    await enqueue(db, "other")
    await db.enqueue(payload={"name": "kept", "a": 1}, options=unique("a"))
    later = await time_in_seconds(db, 10)
    await db.enqueue(
        payload={"name": "postponed", "b": 1}, options=unique("b"), scheduled_for=later
    )
    await db.pass_time(5)
    await enqueue(db, "meanwhile")
    await db.pass_time(10)
    assert await claim_names(db) == ["kept", "other", "meanwhile", "postponed"]


@pytest.mark.parametrize("db", ["plain"], indirect=True)
async def test_a_retried_job_keeps_its_place(db: Database):
    await enqueue(db, "again")
    (job,) = await db.claim()
    await db.report(job, "failed", error="no")
    await enqueue(db, "meanwhile")
    await db.pass_time(3600)
    assert await claim_names(db) == ["again", "meanwhile"]
