"""Fixtures of the SQL tests: each test runs in a transaction that is rolled back."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from picture_queue._resources import migrations
from picture_queue.local.migrate import apply_platform

from ..databases import connect, database_url, execute


class Database:
    """A connection as the role `postgres`, with shortcuts for the calls that many tests make."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self.connection = connection
        self.queue = f"q-{uuid4().hex[:12]}"

    async def value(self, sql: str, *args: Any) -> Any:
        return await self.connection.fetchval(sql, *args)

    async def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.connection.fetch(sql, *args)]

    async def run(self, sql: str, *args: Any) -> None:
        await self.connection.execute(sql, *args)

    async def enqueue(self, job_type: str = "sql-resize", **arguments: Any) -> UUID:
        """Call enqueue_job with named arguments, for the queue of the test."""
        named = "".join(f", {name} => ${i}" for i, name in enumerate(arguments, 3))
        sql = f"select enqueue_job($1, queue => $2{named})"
        return await self.value(sql, job_type, self.queue, *arguments.values())

    async def maintain(self) -> None:
        """Run all maintenance steps that are due."""
        await self.value("select picture_queue._do_due_steps(1000, true)")

    async def claim(self, max_jobs: int = 1, *types: str, **arguments: Any) -> list[dict[str, Any]]:
        return await self.value(
            "select claim_jobs($1, $2, $3, $4, $5, $6)",
            arguments.get("worker", "w1"),
            [self.queue],
            list(types) or ["sql-resize"],
            max_jobs,
            arguments.get("lease", 30.0),
            arguments.get("request_id") or uuid4(),
        )

    async def report(self, job: dict[str, Any], outcome: str, **fields: Any) -> dict[str, Any]:
        """Report the outcome of a claimed job; return the answer for this job."""
        item = {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": outcome, **fields}
        return (await self.value("select report_jobs($1)", [item]))["outcomes"][0]

    async def job(self, job_id: Any) -> dict[str, Any]:
        return (await self.rows("select * from job_queue where id = $1", UUID(str(job_id))))[0]

    async def findings(self, check: str) -> list[dict[str, Any]]:
        """Return the doctor's findings for one check."""
        all_findings = await self.value("select queue_doctor()")
        return [finding for finding in all_findings if finding["check"] == check]

    async def pass_time(self, seconds: float, *, maintained: bool = True) -> None:
        """Move the clock that all functions use, then run the maintenance that became due.

        The rollback at the end of the test restores the clock.

        Args:
            seconds: The number of seconds by which the clock moves.
            maintained: False to skip the maintenance.
        """
        offset = await self.value(
            "select extract(epoch from picture_queue._now() - clock_timestamp())"
        )
        await self.run(
            f"""create or replace function picture_queue._now() returns timestamptz
            language sql stable set search_path = pg_catalog, pg_temp
            as $$ select clock_timestamp() + interval '{float(offset) + seconds:.6f} seconds' $$"""
        )
        if maintained:
            await self.maintain()

    async def act_as(self, role: str, user_id: UUID | None = None) -> None:
        """Take the role and the claims that PostgREST sets for a request with a JWT."""
        claims = {"role": role, **({"sub": str(user_id)} if user_id else {})}
        await self.value("select set_config('request.jwt.claims', $1, true)", json.dumps(claims))
        await self.run(f"set local role {role}")

    async def refusal(self, sql: str, *args: Any) -> asyncpg.PostgresError:
        """Return the error of a statement that must fail; the transaction stays usable."""
        with pytest.raises(asyncpg.PostgresError) as refused:
            async with self.connection.transaction():
                await self.connection.fetch(sql, *args)
        return refused.value

    async def events(self, topic: str) -> list[dict[str, Any]]:
        """Return the payloads of the Realtime messages of a topic, oldest first."""
        rows = await self.rows(
            "select payload from realtime.messages where topic = $1 order by inserted_at", topic
        )
        return [row["payload"] for row in rows]


async def enqueue_items(db: Database, *items: dict[str, Any]) -> list[dict[str, Any]]:
    """Enqueue jobs into the queue of the test with one call; return its answer."""
    jobs = [{"job_type": "sql-resize", "queue": db.queue, **item} for item in items]
    answer: list[dict[str, Any]] = await db.value("select enqueue_jobs($1)", jobs)
    return answer


@asynccontextmanager
async def transaction(url: str) -> AsyncIterator[Database]:
    """Open a connection and a transaction that is rolled back at the end."""
    connection = await connect(url, command_timeout=30)
    outer = connection.transaction()
    await outer.start()
    try:
        yield Database(connection)
    finally:
        await outer.rollback()
        await connection.close(timeout=10)


@pytest.fixture
async def db(stack: Any) -> AsyncIterator[Database]:
    async with transaction(stack.db_url) as database:
        yield database


@pytest.fixture(scope="module")
def own_database(stack: Any) -> Iterator[str]:
    """A database without rows of other tests, for a test file that reads whole tables."""
    name = f"own_{uuid4().hex[:8]}"
    admin = database_url(stack.superuser_url, "postgres")
    url = database_url(stack.db_url, name)

    async def create() -> None:
        await execute(admin, f"create database {name} owner postgres")
        await apply_platform(database_url(stack.superuser_url, name))
        for _, sql in migrations():
            await execute(url, sql)

    asyncio.run(create())
    yield url
    asyncio.run(execute(admin, f"drop database {name} with (force)"))
