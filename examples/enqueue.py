"""Enqueue a job and wait for its result; `examples/worker_app.py` has the handler."""

import asyncio

from picture_queue import AsyncPictureQueue, JobFailed


async def main() -> None:
    """Enqueue a job and print its result."""
    async with AsyncPictureQueue.from_env() as pq:
        job = await pq.jobs.enqueue(
            "resize", {"path": "a.png"}, priority=5, idempotency_key="a.png"
        )
        try:
            print(await pq.jobs.result(job.id, timeout=60))
        except JobFailed as error:
            print(f"failed: {error.job.error}")


asyncio.run(main())
