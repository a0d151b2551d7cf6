"""Limits: bound how many jobs of a key run at once, over all workers."""

import asyncio

from picture_queue import AsyncPictureQueue, NewJob, Worker

worker = Worker(queues=["howto-limits"])
running, peak = 0, 0


@worker.handler("draw", queue="howto-limits")
async def draw(payload: dict[str, int]) -> None:
    """Record how many of these jobs run at the same time."""
    global running, peak
    running += 1
    peak = max(peak, running)
    await asyncio.sleep(0.1)
    running -= 1


async def main() -> None:
    """Run two jobs at a time, then none while the key is paused."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        await pq.limits.set("model:flux", max_running=2)  # takes effect at once, for all workers
        await pq.limits.set("user:*", rate=100, period=60)  # each user: 100 starts a minute
        jobs = await pq.jobs.enqueue_many(
            NewJob(job_type="draw", payload={"n": n}, limit_keys=["model:flux"]) for n in range(8)
        )
        for job in jobs:
            await pq.jobs.result(job.id, timeout=30)
        assert peak == 2

        await pq.limits.pause("model:flux")
        job = (await pq.jobs.enqueue_many([{"job_type": "draw", "limit_keys": ["model:flux"]}]))[0]
        async for event in pq.jobs.watch(job.id, timeout=30):
            if event.hold == "blocked":
                await pq.limits.resume("model:flux")
        print("at most", peak, "at once")
        for key in ("model:flux", "user:*"):
            await pq.limits.delete(key)


asyncio.run(main())
