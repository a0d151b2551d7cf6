"""Retries: by a policy, at a time the handler chooses, for the whole queue, or not at all."""

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
answers = iter([503, 429, 202, 200])


@worker.handler(
    "call-api", queue="howto-retries", max_attempts=3, backoff=Backoff("constant", base=0.5)
)
async def call_api(payload: dict[str, str], job: JobContext) -> str:
    """Calls somebody who is busy at first."""
    if payload["url"] == "nowhere":
        raise PermanentFailure("There is no such address")  # no other attempt
    match next(answers):
        case 503:
            raise ConnectionError("busy")  # another attempt after the backoff
        case 429:
            raise RateLimited(0.5)  # the whole queue rests; no attempt is counted
        case 202:
            raise Retry(seconds=0.5)  # an attempt is counted, the time is ours
    return f"attempt {job.attempt}"


async def main() -> None:
    """Runs one job that succeeds in the end, and one that cannot."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        job = await pq.jobs.enqueue("call-api", {"url": "a"})
        assert await pq.jobs.result(job.id, timeout=30) == "attempt 3"
        job = await pq.jobs.enqueue("call-api", {"url": "nowhere"})
        try:
            await pq.jobs.result(job.id, timeout=30)
        except JobFailed as error:
            print(error.job.error, "after", error.job.attempt, "attempt")


asyncio.run(main())
