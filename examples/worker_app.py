"""A worker with handlers of its own: `picture-queue worker --app examples.worker_app:worker`."""

import time

from pydantic import BaseModel

from picture_queue import JobContext, Snooze, Worker

worker = Worker()


class Resize(BaseModel):
    """What a `resize` job must say; anything else fails the job with the field's name."""

    path: str
    width: int = 256


@worker.handler("resize", timeout=60, max_attempts=5)
async def resize(payload: Resize, job: JobContext) -> dict[str, object]:
    """Runs in the event loop."""
    await job.progress(40, f"reading {payload.path}")
    return {"path": payload.path, "width": payload.width, "attempt": job.attempt}


@worker.handler("report")
def report(payload: dict[str, object]) -> str:
    """Is a plain function, so it runs in a thread."""
    time.sleep(0.01)
    return f"{len(payload)} lines"


@worker.handler("poll-supplier")
async def poll_supplier(payload: dict[str, object]) -> Snooze | str:
    """Puts itself off until there is something to do; no attempt is counted."""
    return "delivered" if payload.get("delivered") else Snooze(seconds=30)
