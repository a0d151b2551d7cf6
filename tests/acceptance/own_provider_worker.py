"""A worker whose function makes the pictures, and whose process dies at a point that is given.

``python own_provider_worker.py [<point>]``. ``function``: the function kills the process while it
draws. ``stored``: the process kills itself once the picture is uploaded, before its row is written.
Without a point, the worker runs until it is stopped.
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

POINT = sys.argv[1] if len(sys.argv) > 1 else ""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def draw(prompt: str) -> bytes:
    if POINT == "function":
        die()
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "navy").save(buffer, "PNG")
    return buffer.getvalue()


async def main() -> None:
    if POINT == "stored":

        async def save_images(*args: Any) -> None:
            die()

        GenerationStore.save_images = save_images  # type: ignore[method-assign]
    async with AsyncPictureQueue.from_env() as pq:
        worker = Worker(pq, WorkerSettings(lease=600.0 if POINT else 30.0, poll_interval=0.2))
        add_generations(worker, pq, providers={"dying": draw})
        await worker.run()


asyncio.run(main())
