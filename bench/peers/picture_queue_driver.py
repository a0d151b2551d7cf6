"""picture-queue with default settings, over the direct transport or the HTTP API in PEER_API."""

import asyncio
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal, cast

from driver import Driver, Handle, main

from picture_queue import AsyncPictureQueue, Worker

QUEUE = "bench"
Events = Literal["none", "status", "progress"]


class PictureQueue(Driver):
    # `picture-queue worker` uses uvloop too, as does PgQueuer's own program.
    uvloop = True
    unfinished = (
        # Two counts, so that each of them can use a partial index: the table may be large.
        "select (select count(*) from public.job_queue where queue = 'bench' "
        "and status = 'pending' and hold is null) "
        "+ (select count(*) from public.job_queue where status = 'processing' and hold is null)"
    )
    insert_finished_sql = (
        "insert into public.job_queue (queue, job_type, status, attempt, finished_at) "
        "select 'bench', 'noop', 'completed', 1, now() from generate_series(1, $1::integer)"
    )
    insert_future_sql = (
        "insert into public.job_queue (queue, job_type, hold, scheduled_for) "
        "select 'bench', 'noop', 'scheduled', now() + interval '1 day' "
        "from generate_series(1, $1::integer)"
    )
    pq: AsyncPictureQueue

    def describe(self) -> dict[str, Any]:
        transport = "the HTTP API" if "PEER_API" in os.environ else "direct"
        settings = {"worker": "default", "transport": transport, "events": self.events}
        return {
            "version": version("picture-queue"),
            "settings": {"default": settings, "tuned": settings},
        }

    @property
    def events(self) -> str:
        return os.environ.get("PEER_EVENTS", "none")

    async def setup(self) -> None:
        await self.open()
        await self.pq.queues.set(QUEUE, events=cast("Events", self.events))
        await self.close()

    async def open(self) -> None:
        api = os.environ.get("PEER_API")
        if api is not None:
            self.pq = AsyncPictureQueue(**json.loads(api))
        else:
            self.pq = AsyncPictureQueue(database_url=self.dsn)

    async def close(self) -> None:
        await self.pq.aclose()

    async def enqueue(self, number: int) -> None:
        await self.pq.jobs.enqueue("noop", {"i": number}, queue=QUEUE)

    async def enqueue_many(self, numbers: Sequence[int], priorities: int) -> None:
        await self.pq.jobs.enqueue_many(
            {
                "job_type": "noop",
                "payload": {"i": number},
                "queue": QUEUE,
                "priority": number % priorities,
            }
            for number in numbers
        )

    async def work(self, handle: Handle, tuned: bool) -> None:
        await self.open()
        worker = Worker(self.pq, queues=[QUEUE])

        @worker.handler("noop")
        async def noop(payload: dict[str, Any]) -> None:
            handle(payload["i"])

        try:
            async with worker:
                await asyncio.Event().wait()
        finally:
            await self.close()


if __name__ == "__main__":
    main(PictureQueue)
