"""The fixture `clients`: eight connections that make concurrent calls on one queue."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.databases import connect

from .engine import Refusal

CLIENT_COUNT = 8
JOB_TYPE = "race-job"


class Client:
    """A connection whose calls are separate transactions.

    A call that the database refuses returns a `Refusal` without detail. A deadlock fails the test,
    and so does PQ_BUSY, which the functions raise instead of a deadlock. A claim may raise PQ_BUSY
    once: it skips locked rows, but Postgres waits for a row that was updated after the claim's
    snapshot.

    Attributes:
        tries: The number of times that a call is made while it raises PQ_BUSY. A test sets more
            than one if a deadlock is possible by design, because our clients retry such a call.
    """

    def __init__(self, connection: "asyncpg.Connection[Any]", queue: str) -> None:
        self.connection = connection
        self.queue = queue
        self.name = f"w-{uuid4().hex[:8]}"
        self.tries = 1

    async def value(self, sql: str, *args: Any, tries: int = 1) -> Any:
        tries = max(tries, self.tries)
        for _ in range(tries):
            try:
                return await self.connection.fetchval(sql, *args)
            except asyncpg.PostgresError as error:
                if not (error.sqlstate or "").startswith("PT"):
                    raise
                code = error.message.split(":")[0]
            if code != "PQ_BUSY":
                return Refusal(code)
        pytest.fail(f"PQ_BUSY in {tries} of {tries} tries: {sql}")

    async def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.connection.fetch(sql, *args)]

    async def enqueue(self, *items: dict[str, Any]) -> Any:
        jobs = [{"job_type": JOB_TYPE, "queue": self.queue, **item} for item in items]
        return await self.value("select enqueue_jobs($1)", jobs)

    async def claim(self, max_jobs: int = 1) -> list[dict[str, Any]]:
        return await self.value(
            "select claim_jobs($1, $2, $3, $4)", self.name, [self.queue], [JOB_TYPE], max_jobs,
            tries=2,
        )  # fmt: skip

    async def report(self, jobs: list[dict[str, Any]], outcome: str, **fields: Any) -> list[str]:
        """Report the same outcome for all jobs; return the answer for each."""
        items = [
            {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": outcome, **fields}
            for job in jobs
        ]
        answer = await self.value("select report_jobs($1)", items)
        return [item["outcome"] for item in answer["outcomes"]]

    async def maintain(self) -> None:
        """Run the due maintenance and all follow-ups, also those that are due later."""
        await self.value("update picture_queue.follow_up set due_at = '-infinity'")
        await self.value("select picture_queue._do_due_steps(1000, true)")

    async def job(self, job_id: Any) -> dict[str, Any]:
        return (await self.rows("select * from job_queue where id = $1::text::uuid", str(job_id)))[
            0
        ]

    async def count_running(self) -> int:
        return await self.value(
            "select count(*) from job_queue where queue = $1 "
            "and status = 'processing' and hold is null",
            self.queue,
        )


class Clients:
    """All clients of a test, and their queue."""

    def __init__(self, members: list[Client]) -> None:
        self.members = members
        self.queue = members[0].queue
        self.first, self.second = members[:2]

    async def run_all(self, call: Callable[[Client], Coroutine[Any, Any, Any]]) -> list[Any]:
        """Run `call` with all clients at the same time and return the answers."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(client)) for client in self.members]
        return [task.result() for task in tasks]

    def key(self, n: int | str) -> str:
        """Return a limit key that only these clients use."""
        return f"{self.queue}:{n}"

    async def count_unfinished(self) -> int:
        return await self.first.value(
            "select count(*) from job_queue where queue = $1 and finished_at is null", self.queue
        )

    async def work(
        self, max_jobs: int = 3, on_claim: Callable[[list[Any]], Any] | None = None
    ) -> None:
        """Let all clients claim and complete jobs until all jobs of the queue have finished."""

        async def until_done(client: Client) -> None:
            while await client.value(
                "select exists (select from job_queue where queue = $1 and finished_at is null)",
                self.queue,
            ):
                jobs = await client.claim(max_jobs)
                if on_claim:
                    on_claim(jobs)
                await client.report(jobs, "completed")

        async with asyncio.timeout(45):
            await self.run_all(until_done)

    async def close(self) -> None:
        """End the jobs, and delete the limits and workers, so that they affect no other test."""
        leased = await self.first.rows(
            "select id::text, lease_id::text from job_queue "
            "where queue = $1 and status = 'processing' and hold is null", self.queue,
        )  # fmt: skip
        await self.first.report(leased, "cancelled")
        await self.first.value("select resume_queue($1)", self.queue)
        await self.first.value("select purge_queue($1)", self.queue)
        for row in await self.first.rows("select key from picture_queue.limit_rule"):
            if self.queue in row["key"] or JOB_TYPE in row["key"]:
                await self.first.value("select delete_limit($1)", row["key"])
        for client in self.members:
            await self.first.value("select unregister_worker($1)", client.name)


@pytest.fixture
async def clients(stack: Any) -> AsyncIterator[Clients]:
    queue = f"q-{uuid4().hex[:12]}"
    async with contextlib.AsyncExitStack() as connections:
        members = []
        for _ in range(CLIENT_COUNT):
            connection = await connect(stack.db_url, command_timeout=50)
            connections.push_async_callback(connection.close, timeout=10)
            members.append(Client(connection, queue))
        clients = Clients(members)
        await clients.first.value("select set_queue($1)", queue)
        yield clients
        await clients.close()
