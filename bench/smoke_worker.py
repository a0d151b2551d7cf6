"""The worker of the smoke benchmark: says when its handler started."""

import time

from picture_queue import Worker

worker = Worker()


@worker.handler("bench-start")
async def start() -> float:
    """Returns the wall clock at its first line, seconds."""
    return time.time()
