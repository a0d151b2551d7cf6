"""The worker of the kill test: ``picture-queue worker --app app:worker``.

The environment has the queue (``KILL_QUEUE``), the lease in seconds (``KILL_LEASE``) and the path
of a file (``KILL_STARTS``). The handler first appends a line to this file without a buffer, so that
the line survives if the process is killed.
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
_STARTS = os.open(os.environ["KILL_STARTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@worker.handler("work")
async def work(payload: dict[str, Any], job: JobContext) -> int:
    """Record the start of the attempt, then run for the seconds in the payload."""
    os.write(_STARTS, f"{job.id} {job.lease_id} {job.attempt}\n".encode())
    await asyncio.sleep(payload["seconds"])
    result: int = payload["n"]
    return result
