"""The worker of the kill test: ``picture-queue worker --app app:worker``.

Environment: ``KILL_QUEUE``, ``KILL_LEASE``, and ``KILL_NOTES``, the file that gets a line for each
job that a claim brings, and for each start of a handler before it does anything. A line outlives
the process, whatever kills it.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any

from picture_queue import JobContext, Worker, WorkerSettings, _rpc
from picture_queue.claimed_job import ClaimedJob

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


def note(event: str, job: object, lease: object) -> None:
    """Write a line."""
    os.write(_NOTES, f"{event} {job} {lease} {time.time()}\n".encode())


class NotedJob(ClaimedJob):
    """A claimed job that is noted when the answer to its claim is read."""

    __slots__ = ()

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        note("claimed", self.key, self.lease_key)


_rpc.ClaimedJob = NotedJob  # type: ignore[misc]


@worker.handler("work")
async def work(payload: dict[str, Any], job: JobContext) -> int:
    """Note the start, and take as long as the job says."""
    note("started", job.id, job.lease_id)
    await asyncio.sleep(payload["seconds"])
    result: int = payload["n"]
    return result
