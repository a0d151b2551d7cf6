"""A worker that kills itself with SIGKILL at a given point of a generation.

``python crashing_worker.py [<point>]``. A point is ``<before|after>:<step>``. A step is an SQL
function, a method of the Replicate client, or a request to Storage: ``read`` or ``upload``.
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


def kill_if_reached(when: str, step: str) -> None:
    if KILL_POINT and f"{when}:{step}" == KILL_POINT:
        os.kill(os.getpid(), signal.SIGKILL)


def wrap_method(cls: type, name: str, get_step: Callable[..., str]) -> None:
    """Wrap a method of a class so that it kills the process at `KILL_POINT`.

    ``get_step`` returns the name of the step from the arguments of a call.
    """
    method: Callable[..., Awaitable[Any]] = getattr(cls, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        step = get_step(*args)
        kill_if_reached("before", step)
        result = await method(*args, **kwargs)
        kill_if_reached("after", step)
        return result

    setattr(cls, name, wrapped)


async def main() -> None:
    logging.getLogger("realtime").setLevel(logging.CRITICAL)
    wrap_method(AsyncPostgrest, "call", lambda self, rpc, deadline: rpc.function)
    wrap_method(
        AsyncPostgrest,
        "storage",
        lambda self, call, deadline: "read" if call.method == "GET" else "upload",
    )
    for name in ("create", "get", "download_into"):
        wrap_method(ReplicateClient, name, lambda *_, name=name: name)
    # The test lets the leases of killed workers expire all at once, so they must last until then.
    lease = 600.0 if KILL_POINT else 30.0
    settings = WorkerSettings(lease=lease, poll_interval=0.2, concurrency=50)
    handler_settings = HandlerSettings(first_poll_interval=0.05, recheck_delay=0.5)
    async with AsyncPictureQueue.from_env() as pq:
        await builtin_worker(pq, settings, ReplicateSettings.from_env(), handler_settings).run()


asyncio.run(main())
