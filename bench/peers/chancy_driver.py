"""Chancy, over psycopg 3. Handlers run on the event loop, not in processes as by default."""

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from chancy import Chancy, Job, Queue, Worker
from driver import Driver, Handle, main

EXECUTOR = "chancy.executors.asyncex.AsyncExecutor"
TUNED: dict[str, Any] = {
    "executor": EXECUTOR,
    "concurrency": 500,
    "polling_interval": 1,
    "eager_polling": True,
}
DEFAULT: dict[str, Any] = {"executor": EXECUTOR}


async def noop(i: int) -> None:
    """Do nothing but pass the number of the job to the callback that records it.

    Chancy imports this file a second time, by its module name. So the callback is an attribute of
    ``__main__``, which both copies can reach.
    """
    handle: Handle = sys.modules["__main__"].HANDLE
    handle(i)


class ChancyDriver(Driver):
    unfinished = (
        "select count(*) from chancy_jobs "
        "where state in ('pending', 'running', 'retrying') and scheduled_at <= now()"
    )
    insert_finished_sql = (
        "insert into chancy_jobs (id, queue, func, state, completed_at) "
        "select gen_random_uuid(), 'default', 'chancy_driver.noop', 'succeeded', now() "
        "from generate_series(1, $1::integer)"
    )
    insert_future_sql = (
        "insert into chancy_jobs (id, queue, func, scheduled_at) "
        "select gen_random_uuid(), 'default', 'chancy_driver.noop', now() + interval '1 day' "
        "from generate_series(1, $1::integer)"
    )

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        # Chancy's own logger prints to stdout, which is for the results.
        self.app = Chancy(dsn, log=logging.getLogger("chancy"))

    def describe(self) -> dict[str, Any]:
        return {"version": version("chancy"), "settings": {"default": DEFAULT, "tuned": TUNED}}

    async def setup(self) -> None:
        async with self.app:
            await self.app.migrate()

    async def open(self) -> None:
        await self.app.__aenter__()

    async def close(self) -> None:
        await self.app.__aexit__(None, None, None)

    async def enqueue(self, number: int) -> None:
        await self.app.push(Job(func="chancy_driver.noop", kwargs={"i": number}))

    async def enqueue_many(self, numbers: Sequence[int], priorities: int) -> None:
        jobs = [
            Job(func="chancy_driver.noop", kwargs={"i": number}, priority=number % priorities)
            for number in numbers
        ]
        async for _ in self.app.push_many(jobs):
            pass

    async def work(self, handle: Handle, tuned: bool) -> None:
        sys.modules["__main__"].HANDLE = handle  # type: ignore[attr-defined]
        async with self.app:
            settings = TUNED if tuned else DEFAULT
            await self.app.declare(Queue("default", **settings), upsert=True)
            async with Worker(self.app, register_signal_handlers=False) as worker:
                await worker.wait_for_shutdown()


if __name__ == "__main__":
    main(ChancyDriver)
