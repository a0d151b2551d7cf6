"""Retries: after the backoff, at a time that the handler chooses, or not at all."""

import asyncio

from picture_queue import (
    AsyncPictureQueue,
    Backoff,
    JobContext,
    JobFailed,
    PermanentFailure,
    RateLimited,
    Retry,
    Worker,
)

worker = Worker(queues=["howto-retries"])
statuses = iter([503, 429, 202, 200])


@worker.handler(
    "call-api", queue="howto-retries", max_attempts=3, backoff=Backoff("constant", base=0.5)
)
async def call_api(payload: dict[str, str], job: JobContext) -> str:
    """Call an API that answers 503, 429 and 202 before it answers 200."""
    if payload["url"] == "nowhere":
        raise PermanentFailure("There is no such address")  # no retry
    match next(statuses):
        case 503:
            raise ConnectionError("busy")  # retried after the backoff
        case 429:
            raise RateLimited(0.5)  # pauses the queue; counts no attempt
        case 202:
            raise Retry(seconds=0.5)  # counts an attempt; retried at this time
    return f"attempt {job.attempt}"


async def main() -> None:
    """Run a job that succeeds at its third attempt, and one that fails without a retry."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        job = await pq.jobs.enqueue("call-api", {"url": "a"})
        assert await pq.jobs.result(job.id, timeout=30) == "attempt 3"
        job = await pq.jobs.enqueue("call-api", {"url": "nowhere"})
        try:
            await pq.jobs.result(job.id, timeout=30)
        except JobFailed as error:
            print(error.job.error, "after", error.job.attempt, "attempt")


asyncio.run(main())
