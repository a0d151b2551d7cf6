"""A worker with its own handlers: `picture-queue worker --app examples.worker_app:worker`."""

import time

from pydantic import BaseModel

from picture_queue import JobContext, Snooze, Worker

worker = Worker()


class Resize(BaseModel):
    """The payload of `resize` jobs. An invalid payload fails the job and names the field."""

    path: str
    width: int = 256


@worker.handler("resize", timeout=60, max_attempts=5)
async def resize(payload: Resize, job: JobContext) -> dict[str, object]:
    """Report progress. A coroutine function runs in the event loop."""
    await job.progress(40, f"reading {payload.path}")
    return {"path": payload.path, "width": payload.width, "attempt": job.attempt}


@worker.handler("report")
def report(payload: dict[str, object]) -> str:
    """Count the entries of the payload. A plain function runs in a thread."""
    time.sleep(0.01)
    return f"{len(payload)} lines"


@worker.handler("poll-supplier")
async def poll_supplier(payload: dict[str, object]) -> Snooze | str:
    """Snooze until the supplier has delivered. A snooze does not count an attempt."""
    return "delivered" if payload.get("delivered") else Snooze(seconds=30)
