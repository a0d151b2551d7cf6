"""Executors: a handler that computes runs in a process, which ends at its timeout."""

import asyncio

from picture_queue import AsyncPictureQueue, JobFailed, SyncJobContext, Worker

worker = Worker(queues=["howto-executors"])


@worker.handler("count-primes", queue="howto-executors", executor="process", max_attempts=1)
def count_primes(payload: dict[str, int], job: SyncJobContext) -> int:
    """Count the primes below a limit."""
    job.progress(1, "counting")
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, payload["limit"]))


async def main() -> None:
    """Run a short job, and let a long one time out."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        job = await pq.jobs.enqueue("count-primes", {"limit": 100}, queue="howto-executors")
        print(await pq.jobs.result(job.id, timeout=30))

        job = await pq.jobs.enqueue(
            "count-primes", {"limit": 10**9}, queue="howto-executors", timeout=1, max_attempts=1
        )
        try:
            await pq.jobs.result(job.id, timeout=30)
        except JobFailed as error:
            print(error.job.error)


if __name__ == "__main__":  # the process of the handler imports this module
    asyncio.run(main())
