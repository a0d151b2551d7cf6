"""Cancels and timeouts: a handler is told, may tidy up, and is over whatever it does."""

import asyncio

from picture_queue import AsyncPictureQueue, JobContext, JobFailed, Worker

worker = Worker(queues=["howto-cancel"])


@worker.handler("render", queue="howto-cancel", timeout=1, max_attempts=1)
async def render(payload: dict[str, float], job: JobContext) -> str:
    """Takes its time."""
    try:
        await job.progress(1, "rendering")
        await asyncio.sleep(payload["seconds"])
    except asyncio.CancelledError:
        job.log("removing what was half done")  # a cancel, a timeout, a lost lease
        raise
    return "done"


async def main() -> None:
    """Cancels one job while it runs, and lets another run out of time."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        job = await pq.jobs.enqueue("render", {"seconds": 30}, timeout=60)
        async for event in pq.jobs.watch(job.id, timeout=30):
            if event.progress == 1 and not event.finished:
                assert (await pq.jobs.cancel(job.id)).cancel_requested
        assert (await pq.jobs.get(job.id)).status == "cancelled"

        job = await pq.jobs.enqueue("render", {"seconds": 30})
        try:
            await pq.jobs.result(job.id, timeout=30)
        except JobFailed as error:
            print(error.job.error)


asyncio.run(main())
