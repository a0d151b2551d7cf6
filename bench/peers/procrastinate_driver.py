"""Procrastinate, over its psycopg 3 connector. Its worker always fetches one job at a time."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import procrastinate
from driver import Driver, Handle, main

TUNED: dict[str, Any] = {"concurrency": 20, "fetch_job_polling_interval": 0.1}
DEFAULT: dict[str, Any] = {"concurrency": 1, "fetch_job_polling_interval": 5.0}


class Procrastinate(Driver):
    unfinished = (
        "select count(*) from procrastinate_jobs where status in ('todo', 'doing') "
        "and coalesce(scheduled_at <= now(), true)"
    )
    insert_finished_sql = (
        "insert into procrastinate_jobs (queue_name, task_name, args, status, attempts) "
        "select 'default', 'noop', '{}', 'succeeded', 1 from generate_series(1, $1::integer)"
    )
    insert_future_sql = (
        "insert into procrastinate_jobs (queue_name, task_name, args, scheduled_at) "
        "select 'default', 'noop', '{}', now() + interval '1 day' "
        "from generate_series(1, $1::integer)"
    )

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        # A single caller is faster with one connection than with a pool that rotates several.
        single = procrastinate.PsycopgConnector(conninfo=dsn, min_size=1, max_size=1)
        self.app = procrastinate.App(connector=single)
        self.handle: Handle = lambda number: None

        @self.app.task(name="noop")  # type: ignore[untyped-decorator]
        async def noop(i: int) -> None:
            self.handle(i)

        self.noop = noop

    def describe(self) -> dict[str, Any]:
        return {
            "version": version("procrastinate"),
            "settings": {"default": DEFAULT, "tuned": TUNED},
        }

    async def setup(self) -> None:
        async with self.app.open_async():
            await self.app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        await self.app.open_async()

    async def close(self) -> None:
        await self.app.close_async()

    async def enqueue(self, number: int) -> None:
        await self.noop.defer_async(i=number)

    async def enqueue_many(self, numbers: Sequence[int], priorities: int) -> None:
        if priorities == 1:
            await self.noop.batch_defer_async(*({"i": number} for number in numbers))
            return
        for priority in range(priorities):
            matching = [number for number in numbers if number % priorities == priority]
            task = self.noop.configure(priority=priority)
            await task.batch_defer_async(*({"i": number} for number in matching))

    async def work(self, handle: Handle, tuned: bool) -> None:
        self.handle = handle
        pool = procrastinate.PsycopgConnector(conninfo=self.dsn)
        with self.app.replace_connector(pool) as app:
            async with app.open_async():
                await app.run_worker_async(
                    install_signal_handlers=False, **(TUNED if tuned else {})
                )


if __name__ == "__main__":
    main(Procrastinate)
