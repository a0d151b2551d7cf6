"""A worker in a separate process: ``python app.py <queue> <lease seconds>``.

The environment names the project. The handler prints a line when it starts and when it stops; the
test waits for these lines.
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
    """Run until the worker stops, or forever if the payload has ``ignore_shutdown``."""
    print("started", job.attempt, flush=True)
    while not job.shutdown_requested:  # noqa: ASYNC110 - a handler polls this attribute
        await asyncio.sleep(0.01)
    print("stopping", flush=True)
    if payload.get("ignore_shutdown"):
        await asyncio.Event().wait()
    return "finished early"


if __name__ == "__main__":
    asyncio.run(worker.run())
