"""PgQueuer, over asyncpg. The tuned settings are the settings of PgQueuer's own benchmark."""

import json
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import asyncpg
from driver import Driver, Handle, main
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

TUNED: dict[str, Any] = {"batch_size": 500, "dequeue_timeout": 30, "event_loop": "uvloop"}
DEFAULT: dict[str, Any] = {"batch_size": 10, "dequeue_timeout": 30, "event_loop": "uvloop"}


class PgQueuer(Driver):
    uvloop = True
    unfinished = (
        "select count(*) from pgqueuer "
        "where status in ('queued', 'picked') and execute_after <= now()"
    )
    insert_finished_sql = (
        "insert into pgqueuer_log (job_id, status, priority, entrypoint) "
        "select -i, 'successful', 0, 'noop' from generate_series(1, $1::integer) i"
    )
    insert_future_sql = (
        "insert into pgqueuer (priority, entrypoint, payload, status, execute_after) "
        "select 0, 'noop', '{}', 'queued', now() + interval '1 day' "
        "from generate_series(1, $1::integer)"
    )
    connection: Any
    queries: Queries

    def describe(self) -> dict[str, Any]:
        return {
            "version": version("pgqueuer"),
            "settings": {"default": DEFAULT, "tuned": TUNED},
        }

    async def setup(self) -> None:
        await self.open()
        await self.queries.install()
        await self.close()

    async def open(self) -> None:
        self.connection = await asyncpg.connect(self.dsn)
        self.queries = Queries(AsyncpgDriver(self.connection))

    async def close(self) -> None:
        await self.connection.close()

    async def enqueue(self, number: int) -> None:
        await self.queries.enqueue("noop", json.dumps({"i": number}).encode())

    async def enqueue_many(self, numbers: Sequence[int], priorities: int) -> None:
        await self.queries.enqueue(
            ["noop"] * len(numbers),
            [json.dumps({"i": number}).encode() for number in numbers],
            [number % priorities for number in numbers],
        )

    async def work(self, handle: Handle, tuned: bool) -> None:
        await self.open()
        manager = QueueManager(self.queries)

        @manager.entrypoint("noop")  # type: ignore[untyped-decorator]
        async def noop(job: Any) -> None:
            handle(json.loads(job.payload)["i"])

        settings = TUNED if tuned else DEFAULT
        await manager.run(
            batch_size=settings["batch_size"],
            dequeue_timeout=timedelta(seconds=settings["dequeue_timeout"]),
        )


if __name__ == "__main__":
    main(PgQueuer)
