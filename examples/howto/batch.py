"""Dependencies and batches: make an album when all of its pictures are ready."""

import asyncio
from typing import Any
from uuid import uuid4

from picture_queue import AsyncPictureQueue, NewJob, Worker

QUEUE = "howto-batch"
worker = Worker(queues=[QUEUE])


@worker.handler("fetch", queue=QUEUE)
async def fetch(payload: dict[str, str]) -> str:
    """Fetch a picture."""
    return payload["path"]


@worker.handler("shrink", queue=QUEUE)
async def shrink(payload: dict[str, str]) -> str:
    """Shrink a picture, after it was fetched."""
    return payload["path"]


@worker.handler("make-album", queue=QUEUE)
async def make_album(payload: dict[str, Any]) -> str:
    """Make the album, once, when all other jobs have finished."""
    return f"{payload['completed']} of {payload['total']}"


async def main() -> None:
    """Enqueue two jobs for each of three pictures, and wait for the batch."""
    jobs: list[NewJob] = []
    for name in ("a", "b", "c"):
        fetch_id, payload = uuid4(), {"path": f"{name}.png"}
        jobs += [
            NewJob(job_type="fetch", payload=payload, queue=QUEUE, job_id=fetch_id),
            NewJob(job_type="shrink", payload=payload, queue=QUEUE, depends_on=[fetch_id]),
        ]
    async with AsyncPictureQueue.from_env() as pq, worker:
        callback = NewJob(job_type="make-album", queue=QUEUE)
        batch = await pq.batches.enqueue(jobs, callback=callback)
        async with asyncio.timeout(30):
            while (state := await pq.batches.get(batch.id)).open:
                print(f"{state.progress} %")
                await asyncio.sleep(0.2)
        assert state.callback_job_id is not None
        assert await pq.jobs.result(state.callback_job_id, timeout=30) == "6 of 6"


asyncio.run(main())
