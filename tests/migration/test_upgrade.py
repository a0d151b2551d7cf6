"""Upgrades of databases with unfinished jobs, dumped from earlier versions of the project.

`scripts/dump_upgrade_fixture.py` created the fixtures: `main_job` with commit ff219f7, `engine`
with commit 0679a91, and `base` with the SQL that 0.1.0 will release.
"""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from picture_queue.errors import InstallationRefused
from picture_queue.installation.adopt import adopt
from picture_queue.installation.database import migrate

FIXTURES = Path(__file__).parent / "fixtures"
UNRELEASED = ("main_job", "engine")
LIST_COLUMNS = """
select string_agg(attname, ', ' order by attname) from pg_attribute
where attrelid = 'public.job_queue'::regclass and attnum > 0
"""
# The value of "as" in the payloads of the dumped jobs; it says which state a job represents.
KINDS = {
    "pending",
    "urgent",
    "later",
    "running",
    "completed",
    "failed",
    "retried",
    "cancelled",
    None,
}


@pytest.fixture(params=[*UNRELEASED, "base"])
async def earlier(request: pytest.FixtureRequest, new_database: Any) -> tuple[str, Any]:
    """The name of an earlier version, and its database, whose leases are extended."""
    dump = gzip.decompress((FIXTURES / f"{request.param}.sql.gz").read_bytes()).decode()
    await new_database.run(dump)
    await new_database.run(
        """update job_queue set lease_expires_at = now() + interval '1 hour'
        where status = 'processing'"""
    )
    return request.param, new_database


async def upgrade(name: str, database: Any) -> None:
    """Upgrade as the documentation says: `migrate`, or `adopt` for an unreleased version."""
    try:
        await asyncio.to_thread(migrate, database.settings, lambda file: None)
        assert name not in UNRELEASED
    except InstallationRefused as refused:
        # The migration of 0.1.0 may change until its release. After a change, `base` needs `adopt`.
        assert "picture-queue adopt --preview" in (refused.hint or "")
        await asyncio.to_thread(adopt, database.settings, preview=False)
        assert await asyncio.to_thread(migrate, database.settings, lambda file: None) == []


async def lease_of(database: Any, condition: str) -> tuple[UUID, UUID]:
    """Return the job and the lease of the only running job that satisfies an SQL condition."""
    ((job, lease),) = await database.rows(
        f"select id, lease_id from job_queue where status = 'processing' and {condition}"
    )
    return job, lease


async def report(database: Any, job: UUID, lease: UUID) -> str:
    """Report that a job completed; return the answer for the outcome."""
    outcome = {"job_id": str(job), "lease_id": str(lease), "outcome": "completed", "result": None}
    answer = await database.value("select report_jobs($1)", json.dumps([outcome]))
    return str(json.loads(answer)["outcomes"][0]["outcome"])


async def test_no_job_is_lost_or_changed(earlier: tuple[str, Any]) -> None:
    name, database = earlier
    columns = await database.value(LIST_COLUMNS)
    rows = f"select {columns} from job_queue order by seq"
    before = await database.rows(rows)
    kinds = "select distinct payload ->> 'as' from job_queue"
    assert {kind for (kind,) in await database.rows(kinds)} == KINDS
    await upgrade(name, database)
    assert await database.rows(rows) == before
    generations = "select prompt, status, user_id is not null from generations"
    assert await database.rows(generations) == [("a cat", "processing", True)]


async def test_jobs_are_claimed_in_order_after_the_upgrade(earlier: tuple[str, Any]) -> None:
    name, database = earlier
    await upgrade(name, database)
    new = await database.value("select enqueue_job('resize', '{\"as\": \"new\"}'::jsonb, 0)")
    await database.run(
        "update job_queue set scheduled_for = now() where payload ->> 'as' = 'retried'"
    )
    await database.run("select maintain_jobs(force => true)")
    claimed = await database.value(
        "select claim_jobs('worker-2', '{default}', '{resize}', 10, 30, $1)", uuid4()
    )
    order = [job["payload"]["as"] for job in json.loads(claimed)]
    assert order[0] == "urgent"
    assert set(order[1:]) == {"retried", "pending", "new"}
    assert order.index("pending") < order.index("new")
    for job in json.loads(claimed):
        assert await report(database, UUID(job["id"]), UUID(job["lease_id"])) == "ok"
    assert await database.value("select status from job_queue where id = $1", new) == "completed"
    findings = json.loads(await database.value("select queue_doctor()"))
    assert [finding for finding in findings if finding["verdict"] == "bad"] == []


async def test_a_user_defined_model_is_kept(earlier: tuple[str, Any]) -> None:
    name, database = earlier
    await database.run(
        """create temp table mine as select * from picture_queue.model limit 1;
        update mine set model_id = 'me/mine';
        insert into picture_queue.model select * from mine"""
    )
    await upgrade(name, database)
    assert "me/mine" in await database.value("select list_models()")


async def test_an_outcome_is_accepted_under_a_lease_from_before_the_upgrade(
    earlier: tuple[str, Any],
) -> None:
    name, database = earlier
    job, lease = await lease_of(database, "payload ->> 'as' = 'running'")
    await upgrade(name, database)
    assert await report(database, job, lease) == "ok"
    assert await database.value("select status from job_queue where id = $1", job) == "completed"


@pytest.mark.parametrize("earlier", ["engine", "base"], indirect=True)
async def test_a_parked_job_is_woken_by_its_event(earlier: tuple[str, Any]) -> None:
    name, database = earlier
    await database.run(
        """update job_queue set hold = 'parked', parked_on = 'arrived', lease_expires_at = null,
          scheduled_for = now() + interval '1 hour'
        where status = 'processing' and payload ->> 'as' = 'running'"""
    )
    await upgrade(name, database)
    assert json.loads(await database.value("select send_event('arrived')")) == {"woken": 1}


async def test_a_prediction_is_resumed_and_not_paid_twice(earlier: tuple[str, Any]) -> None:
    name, database = earlier
    job, lease = await lease_of(database, "generation_id is not null")
    await upgrade(name, database)
    begun = json.loads(await database.value("select begin_prediction($1, $2)", job, lease))
    assert begun["resumed"] is True
    assert begun["prediction"]["prediction_id"] == "prediction-1"
    row = UUID(begun["prediction"]["id"])
    await database.value("select finish_prediction($1, $2, $3, 'succeeded')", job, lease, row)
    assert await report(database, job, lease) == "ok"
    assert await database.value("select status from generations") == "completed"
