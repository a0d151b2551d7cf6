"""A worker that kills itself, like `kill -9`, at one point of a generation.

``python crashing_worker.py <point>``. A point is ``<before|after>:<step>``; a step is the name of a
database call, ``upload``, or the name of a call to Replicate. Without a point the worker runs on.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from picture_queue import AsyncPictureQueue, WorkerSettings
from picture_queue._transport.postgrest import AsyncPostgrest
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.settings import ReplicateSettings

DIES_AT = sys.argv[1] if len(sys.argv) > 1 else ""


def kill_at(when: str, step: str) -> None:
    if DIES_AT and f"{when}:{step}" == DIES_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def wrap_method(owner: type, name: str, step: Callable[..., str]) -> None:
    """Let the process die before or after a method, if the point names it."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        which = step(*args)
        kill_at("before", which)
        result = await method(*args, **kwargs)
        kill_at("after", which)
        return result

    setattr(owner, name, wrapped)


async def main() -> None:
    logging.getLogger("realtime").setLevel(logging.CRITICAL)
    wrap_method(AsyncPostgrest, "call", lambda self, rpc, deadline: rpc.function)
    wrap_method(
        AsyncPostgrest,
        "storage",
        lambda self, call, deadline: "look" if call.method == "GET" else "upload",
    )
    for name in ("create", "get", "download"):
        wrap_method(ReplicateClient, name, lambda *_, name=name: name)
    lease = 600.0 if DIES_AT else 30.0  # The test expires the leases of dead workers itself.
    settings = WorkerSettings(lease=lease, poll_interval=0.2, concurrency=50)
    handling = HandlerSettings(first_poll_interval=0.05, recheck_delay=0.5)
    async with AsyncPictureQueue.from_env() as pq:
        await builtin_worker(pq, settings, ReplicateSettings.from_env(), handling).run()


asyncio.run(main())
