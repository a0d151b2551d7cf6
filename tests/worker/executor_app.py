"""A handler that computes, and executors for it: ``python executor_app.py <queue> <executor>``.

The processes of the executors import this module. The handler appends lines to a file, from which
a test reads how often it ran and where.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from picture_queue import SyncJobContext, Worker, WorkerSettings

_dask_clients: list[Any] = []


def make_loky() -> Executor:
    """Make a pool of loky."""
    from loky import ProcessPoolExecutor

    executor: Executor = ProcessPoolExecutor(max_workers=2)
    return executor


def make_dask() -> Executor:
    """Make an executor of a Dask cluster with a process on this machine."""
    from distributed import Client

    cluster = {"n_workers": 1, "threads_per_worker": 2, "processes": True}
    client = Client(**cluster, dashboard_address=":0", set_as_default=False)
    _dask_clients.append(client)
    executor: Executor = client.get_executor()
    return executor


async def close_dask() -> None:
    """Close the Dask clusters of this process."""
    while _dask_clients:
        client = _dask_clients.pop()
        await asyncio.to_thread(client.cluster.close)
        await asyncio.to_thread(client.close)


EXECUTORS: dict[str, Any] = {
    "thread": "thread",
    "process": "process",
    "loky": make_loky,
    "dask": make_dask,
}


def compute(payload: dict[str, Any], job: SyncJobContext) -> dict[str, Any]:
    """Compute; the first run ends when the file ``release`` exists, if the payload names one.

    Only a handler in a thread has to look for requests to stop.
    """
    report = Path(payload["report"])
    is_first_run = not report.exists()
    with report.open("a") as file:
        file.write(f"started {os.getpid()}\n")
    job.progress(50, "half")
    job.log("computing")
    release = payload.get("release")
    value = 0
    while release is not None and is_first_run and not os.path.exists(release):
        value = (value * 31 + 7) % 1_000_003
        if payload["executor"] == "thread" and job.stop_requested:
            raise asyncio.CancelledError
    with report.open("a") as file:
        file.write(f"finished {os.getpid()}\n")
    return {"pid": os.getpid()}


def fail() -> None:
    """Fail with an exception."""
    raise ValueError("no disk")


def exit_process() -> None:
    """End the process, as the system does when memory is short."""
    os._exit(9)


def add_handlers(worker: Worker, executor: str) -> None:
    """Register the handlers, and close what the executor leaves open."""
    choice: Callable[[], Executor] = EXECUTORS[executor]
    worker.handler("compute", executor=choice)(compute)
    worker.handler("fail", executor=choice)(fail)
    worker.after_stop(close_dask)


async def main() -> None:
    """Run a worker with a short lease."""
    settings = WorkerSettings(queues=(sys.argv[1],), lease=2, poll_interval=0.2)
    worker = Worker(settings=settings)
    add_handlers(worker, sys.argv[2])
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
