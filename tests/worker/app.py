"""A worker in a process of its own: ``python app.py <queue> <lease>``, project by environment.

It writes a line when a handler has started, so that its parent can wait for that.
"""

import asyncio
import sys
from typing import Any

from picture_queue import JobContext, Worker, WorkerSettings

worker = Worker(
    settings=WorkerSettings(
        queues=(sys.argv[1],), lease=float(sys.argv[2]), poll_interval=0.2, shutdown_grace=60
    )
)


@worker.handler("slow")
async def slow(payload: dict[str, Any], job: JobContext) -> str:
    """Print that it runs, and continue until the worker stops."""
    print("started", job.attempt, flush=True)
    while not job.shutdown_requested:  # noqa: ASYNC110 - as a handler in chunks would
        await asyncio.sleep(0.01)
    print("stopping", flush=True)
    if payload.get("stubborn"):
        await asyncio.Event().wait()
    return "finished early"


if __name__ == "__main__":
    asyncio.run(worker.run())
