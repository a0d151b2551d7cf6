"""The worker of the suite: ``picture-queue worker --app app:worker``.

Environment: ``SUITE_SETTINGS`` is a JSON object of worker settings. ``SUITE_MUTATION`` names the
mutation to apply, if any.
"""

import asyncio
import json
import os
from typing import Any

import misbehaviour

from picture_queue import JobContext, Worker, WorkerSettings
from picture_queue.worker import SyncJobContext

worker = Worker(settings=WorkerSettings(**json.loads(os.environ["SUITE_SETTINGS"])))


@worker.handler("ordinary")
async def ordinary(payload: dict[str, Any], job: JobContext) -> int:
    """Run for the seconds in the payload, or for 0.05 s, so that other jobs run meanwhile."""
    await asyncio.sleep(payload.get("seconds", 0.05))
    result: int = payload["n"]
    return result


@worker.handler("ordinary-thread")
def ordinary_in_thread(payload: dict[str, Any]) -> int:
    """Return at once, from a thread."""
    result: int = payload["n"]
    return result


@worker.handler("bad")
async def bad(payload: dict[str, Any], job: JobContext) -> object:
    """Misbehave after the other jobs have started."""
    print("started", job.id, flush=True)
    await asyncio.sleep(payload.get("after", 0.05))
    return await misbehaviour.misbehave(payload["misbehaviour"], job)


@worker.handler("bad-thread")
def bad_in_thread(payload: dict[str, Any], job: SyncJobContext) -> object:
    """Misbehave in a thread."""
    print("started", job.id, flush=True)
    return misbehaviour.misbehave_in_thread(payload["misbehaviour"])


if mutation := os.environ.get("SUITE_MUTATION"):
    # Mutations are imported only here, because they use internals of the worker.
    import mutations

    mutations.apply(mutation)
