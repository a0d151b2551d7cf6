"""A publication `for all tables`, as tools for change data capture create it."""

import pytest

from tests.databases import database_url, execute
from tests.sql.conftest import transaction


@pytest.fixture
async def published_db(stack, own_database):
    """A database with a publication of all its tables."""
    # Only a superuser may publish all tables.
    await execute(
        database_url(stack.superuser_url, own_database.rpartition("/")[2]),
        "create publication everything for all tables",
    )
    async with transaction(own_database) as db:
        assert await db.value("show wal_level") == "logical", (
            "with a lower wal_level, Postgres would refuse no call"
        )
        yield db


async def test_calls_that_update_and_delete_rows_work_with_a_publication_for_all_tables(
    published_db,
):
    db = published_db
    await db.value("select set_limit('global', max_running => 100)")
    await db.value("select set_limit('sql-key', max_running => 1, rate => 5, period_seconds => 1)")
    keys = {"options": {"limit_keys": ["sql-key"]}}
    for _ in range(3):
        await db.enqueue(**keys)
    for _ in range(3):  # The end of each job frees the key and unblocks the next job.
        for job in await db.claim(5):
            assert (await db.report(job, "completed"))["outcome"] == "ok"
    await db.enqueue(**keys)
    await db.pass_time(70)
    done = await db.value("select maintain_jobs(true)")
    assert done["aggregated"] > 0
    assert await db.value("select count(*) from picture_queue.start") == 0, "the starts are pruned"
    await db.pass_time(3600)
    await db.value("select purge_queue($1)", db.queue)
    await db.value("select picture_queue.repair()")
    await db.value("select picture_queue._aggregate_depth(1000)")


async def test_every_table_has_a_replica_identity(db):
    """Check all tables, because the calls above do not write to every table."""
    rows = await db.rows(
        """select c.oid::regclass::text as name from pg_class c
        where (c.relnamespace = 'picture_queue'::regnamespace
            or c.oid in ('job_queue'::regclass, 'generations'::regclass, 'images'::regclass))
          and c.relkind = 'r' and c.relreplident <> 'f' and not exists (
            select from pg_index i where i.indrelid = c.oid and i.indisprimary)"""
    )
    assert [row["name"] for row in rows] == []
