"""A worker that kills itself with SIGKILL at one point of a generation.

``python crashing_worker.py [<point>]``. A point is ``<before|after>:<step>``; a step is the name of
a database function, ``look`` or ``upload`` (calls of Storage), or the name of a call of Replicate.
Without a point, the worker never kills itself.
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

KILL_POINT = sys.argv[1] if len(sys.argv) > 1 else ""


def kill_at(when: str, step: str) -> None:
    if KILL_POINT and f"{when}:{step}" == KILL_POINT:
        os.kill(os.getpid(), signal.SIGKILL)


def wrap_method(owner: type, name: str, step: Callable[..., str]) -> None:
    """Wrap a method so that it kills the process before or after its call at `KILL_POINT`."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        step_name = step(*args)
        kill_at("before", step_name)
        result = await method(*args, **kwargs)
        kill_at("after", step_name)
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
    lease = 600.0 if KILL_POINT else 30.0  # The test expires the leases of dead workers itself.
    settings = WorkerSettings(lease=lease, poll_interval=0.2, concurrency=50)
    handler_settings = HandlerSettings(first_poll_interval=0.05, recheck_delay=0.5)
    async with AsyncPictureQueue.from_env() as pq:
        await builtin_worker(pq, settings, ReplicateSettings.from_env(), handler_settings).run()


asyncio.run(main())
