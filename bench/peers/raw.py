"""The upper bound for this machine: plain SQL statements over asyncpg, without a queue."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
from driver import Driver, Handle, main

# The minimum that a queue needs: one index, and rows addressed by their ctid.
SCHEMA = """
create table job (
  id bigint generated always as identity,
  payload jsonb not null,
  status smallint not null default 0,
  priority integer not null default 0,
  scheduled_for timestamptz not null default now(),
  result jsonb);
create index job_due on job (priority desc, id) where status = 0"""


class Raw(Driver):
    """A bare table, and a loop that claims and completes 100 jobs with one statement each."""

    unfinished = "select count(*) from job where status < 2 and scheduled_for <= now()"
    insert_finished_sql = (
        "insert into job (payload, status) select '{}', 2 from generate_series(1, $1::integer)"
    )
    insert_future_sql = (
        "insert into job (payload, status, scheduled_for) "
        "select '{}', 1, now() + interval '1 day' from generate_series(1, $1::integer)"
    )
    connection: Any

    def describe(self) -> dict[str, Any]:
        settings = {"claims": 100, "statements": "prepared", "connections": 1}
        return {
            "version": asyncpg.__version__,
            "settings": {"default": settings, "tuned": settings},
        }

    async def setup(self) -> None:
        await self.execute_script(SCHEMA)

    async def execute_script(self, text: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        await connection.execute(text)
        await connection.close()

    async def open(self) -> None:
        self.connection = await asyncpg.connect(self.dsn)

    async def close(self) -> None:
        await self.connection.close()

    async def enqueue(self, number: int) -> None:
        await self.connection.fetchval(
            "insert into job (payload) values ($1) returning id", f'{{"i": {number}}}'
        )

    async def enqueue_many(self, numbers: Sequence[int], priorities: int) -> None:
        payloads = [f'{{"i": {number}}}' for number in numbers]
        if priorities == 1:
            await self.connection.execute(
                "insert into job (payload) select p::jsonb from unnest($1::text[]) p", payloads
            )
            return
        await self.connection.execute(
            "insert into job (payload, priority) "
            "select p::jsonb, n from unnest($1::text[], $2::integer[]) as u (p, n)",
            payloads,
            [number % priorities for number in numbers],
        )

    async def work(self, handle: Handle, tuned: bool) -> None:
        connection = await asyncpg.connect(self.dsn)
        # The table has no statistics, so Postgres would otherwise sort all waiting jobs in each
        # claim instead of using the index.
        await connection.execute("set enable_sort = off")
        while True:
            rows = await connection.fetch(
                "update job set status = 1 where ctid = any (array("
                "select ctid from job where status = 0 order by priority desc, id limit 100 "
                "for update skip locked)) returning ctid, payload"
            )
            for row in rows:
                handle(json.loads(row["payload"])["i"])
            if rows:
                await connection.execute(
                    "update job set status = 2 where ctid = any ($1)",
                    [row["ctid"] for row in rows],
                )
            else:
                await asyncio.sleep(0.05)


if __name__ == "__main__":
    main(Raw)
