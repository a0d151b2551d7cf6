"""A worker for ``picture-queue worker --app stuck_app:worker``: its first attempt never ends."""

import os
import threading

from picture_queue import Worker, WorkerSettings
from picture_queue.worker import SyncJobContext

worker = Worker(settings=WorkerSettings(concurrency=1, poll_interval=0.1, stuck_after=0.1))


@worker.handler("hangs", timeout=0.2, backoff=0.01, max_attempts=2)
def hangs(job: SyncJobContext) -> int:
    """Never return in the first attempt; then return the id of the process."""
    print("started", job.attempt, os.getpid(), flush=True)
    if job.attempt == 1:
        threading.Event().wait()
    return os.getpid()
