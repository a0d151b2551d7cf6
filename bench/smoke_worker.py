"""The worker of the smoke benchmark; its handler returns the time at which it started."""

import time

from picture_queue import Worker

worker = Worker()


@worker.handler("bench-pick-up")
async def start() -> float:
    """Return the wall-clock time in seconds since the epoch."""
    return time.time()
