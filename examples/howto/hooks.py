"""Hooks: a shared connection, a report of failures, and a context manager around attempts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from picture_queue import AsyncPictureQueue, JobContext, JobFailed, Worker
from picture_queue.worker import AttemptEnd


@asynccontextmanager
async def lifespan() -> AsyncIterator[httpx.AsyncClient]:
    """Open the HTTP client that all handlers share, and close it after the last job."""
    async with httpx.AsyncClient(timeout=10) as http:
        yield http


worker = Worker(queues=["howto-hooks"], lifespan=lifespan)


@worker.handler("fetch-page", queue="howto-hooks", max_attempts=1)
async def fetch(payload: dict[str, str], *, http: httpx.AsyncClient) -> int:
    """Return the status of a page; `http` is passed by its type."""
    return (await http.get(payload["url"])).status_code


@worker.on_failure
async def report(end: AttemptEnd) -> None:
    """Report a failure, for example to Sentry."""
    print("failed:", end.job.id, repr(end.exception))


@worker.around
@asynccontextmanager
async def measure(job: JobContext) -> AsyncIterator[None]:
    """Measure each attempt."""
    started_at = time.monotonic()
    yield
    print(job.job_type, time.monotonic() - started_at)


async def main() -> None:
    """Run a job that fails."""
    async with AsyncPictureQueue.from_env() as pq, worker:
        url = "http://127.0.0.1:1/"  # nothing listens there
        job = await pq.jobs.enqueue("fetch-page", {"url": url}, queue="howto-hooks", max_attempts=1)
        try:
            await pq.jobs.result(job.id, timeout=30)
        except JobFailed as error:
            print(error.job.error)


asyncio.run(main())
