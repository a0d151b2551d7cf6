"""Cancellation and timeouts: the handler gets a CancelledError, and can clean up."""

import asyncio

from picture_queue import AsyncPictureQueue, JobContext, JobFailed, Worker

worker = Worker(queues=["howto-cancel"])


@worker.handler("render", queue="howto-cancel", timeout=1, max_attempts=1)
async def render(payload: dict[str, float], job: JobContext) -> str:
    """Render for a number of seconds."""
    try:
        await job.progress(1, "rendering")
        await asyncio.sleep(payload["seconds"])
    except asyncio.CancelledError:
        job.log("removing partial files")  # after a cancel, a timeout or a lost lease
        raise
    return "done"


async def main() -> None:
    """Cancel a running job, and let another one time out."""
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
