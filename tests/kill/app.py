"""The worker of the kill test: ``picture-queue worker --app app:worker``.

Environment: ``KILL_QUEUE``, ``KILL_LEASE``, and ``KILL_NOTES``, the file that gets a line for each
start of a handler before it does anything. A line outlives the process, whatever kills it.
"""

import asyncio
import os
from typing import Any

from picture_queue import JobContext, Worker, WorkerSettings

worker = Worker(
    settings=WorkerSettings(
        queues=(os.environ["KILL_QUEUE"],),
        concurrency=5,
        lease=float(os.environ["KILL_LEASE"]),
        poll_interval=0.5,
        shutdown_grace=20,
    )
)
_NOTES = os.open(os.environ["KILL_NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@worker.handler("work")
async def work(payload: dict[str, Any], job: JobContext) -> int:
    """Note the start, and take as long as the job says."""
    os.write(_NOTES, f"{job.id} {job.lease_id} {job.attempt}\n".encode())
    await asyncio.sleep(payload["seconds"])
    result: int = payload["n"]
    return result
