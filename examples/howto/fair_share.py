"""Fair sharing: ten jobs of one tenant do not wait for all jobs of another tenant."""

import asyncio

from picture_queue import AsyncPictureQueue, NewJob, Worker, WorkerSettings

QUEUE = "howto-fair"
worker = Worker(settings=WorkerSettings(queues=[QUEUE], concurrency=1))
started: list[str] = []
all_started = asyncio.Event()


@worker.handler("thumbnail", queue=QUEUE)
async def thumbnail(payload: dict[str, str]) -> None:
    """Record the tenant."""
    started.append(payload["tenant"])
    if len(started) == 100:
        all_started.set()


async def main() -> None:
    """Enqueue many jobs for one tenant, then a few for two others."""
    async with AsyncPictureQueue.from_env() as pq:
        await pq.queues.set(QUEUE, fair_share=True)
        await pq.tenants.set("carol", 3)  # three turns for each turn of the others
        for tenant, count in (("ada", 60), ("bob", 10), ("carol", 30)):
            await pq.jobs.enqueue_many(
                NewJob(job_type="thumbnail", payload={"tenant": tenant}, queue=QUEUE, tenant=tenant)
                for _ in range(count)
            )
        async with worker:
            await asyncio.wait_for(all_started.wait(), 30)
    # While all three have jobs, each five starts are one of ada, one of bob and three of carol.
    assert 8 <= started[:50].count("bob") <= 10
    assert 28 <= started[:50].count("carol") <= 30
    print({tenant: started[:50].count(tenant) for tenant in ("ada", "bob", "carol")})


asyncio.run(main())
