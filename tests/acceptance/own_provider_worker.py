"""A worker whose provider is a Python function, and which kills itself at a given point.

``python own_provider_worker.py [<point>]``. The points are ``function`` (in the function that makes
the picture) and ``stored`` (after the picture is uploaded, before its row is written). Without a
point, the worker runs until it is stopped.
"""

import asyncio
import io
import os
import signal
import sys
from typing import Any

from PIL import Image

from picture_queue import AsyncPictureQueue, Worker, WorkerSettings, add_generations
from picture_queue.generations.store import GenerationStore

KILL_POINT = sys.argv[1] if len(sys.argv) > 1 else ""


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def draw(prompt: str) -> bytes:
    if KILL_POINT == "function":
        kill_this_process()
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "navy").save(buffer, "PNG")
    return buffer.getvalue()


async def main() -> None:
    if KILL_POINT == "stored":

        async def save_images(*args: Any) -> None:
            kill_this_process()

        GenerationStore.save_images = save_images  # type: ignore[method-assign]
    async with AsyncPictureQueue.from_env() as pq:
        worker = Worker(pq, WorkerSettings(lease=600.0 if KILL_POINT else 30.0, poll_interval=0.2))
        add_generations(worker, pq, providers={"dying": draw})
        await worker.run()


asyncio.run(main())
