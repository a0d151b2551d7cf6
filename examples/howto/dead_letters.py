"""Dead letters: group failed jobs by reason, and retry or discard many at once."""

import asyncio

from picture_queue import AsyncPictureQueue, NewJob, Worker

QUEUE = "howto-dead"
worker = Worker(queues=[QUEUE])
repaired = False


@worker.handler("store", queue=QUEUE, max_attempts=1)
async def store(payload: dict[str, int]) -> str:
    """Store a file; fails while the disk is full."""
    if not repaired:
        raise OSError(f"no space for file {payload['n']}")
    return "stored"


async def main() -> None:
    """Let ten jobs fail for one reason, repair it, and retry them."""
    global repaired
    async with AsyncPictureQueue.from_env() as pq, worker:
        jobs = await pq.jobs.enqueue_many(
            NewJob(job_type="store", payload={"n": n}, queue=QUEUE) for n in range(10)
        )
        for job in jobs:
            async for _ in pq.jobs.watch(job.id, timeout=30):
                pass
        (reason,) = await pq.jobs.failure_reasons(queue=QUEUE)
        print(reason.count, "times:", reason.reason)  # numbers and ids are replaced

        repaired = True
        filter = {"queue": QUEUE, "reason": reason.reason}
        assert (await pq.jobs.change("retry", preview=True, **filter)).matched == 10
        assert (await pq.jobs.change("retry", **filter)).changed == 10
        assert await pq.jobs.result(jobs[0].id, timeout=30) == "stored"
        history = await pq.jobs.history(jobs[0].id)
        print([step.action for step in history.timeline])
        for job in jobs:
            await pq.jobs.result(job.id, timeout=30)
        assert (await pq.jobs.change("discard", queue=QUEUE)).changed == 10


asyncio.run(main())
