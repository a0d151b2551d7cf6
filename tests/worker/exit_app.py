"""A worker whose handlers never end: ``python exit_app.py <queue> <misbehaviour> [<runs>]``.

The misbehaviours are the cases of `hangs`; with ``two workers``, the process runs two workers. The
test reads the printed lines, sends signals, and waits for the end of this process.
"""

import asyncio
import sys
import threading

from picture_queue import PictureQueueError, Worker, WorkerSettings

QUEUE, MISBEHAVIOUR, *RUNS = sys.argv[1:]


def new_worker() -> Worker:
    """Make a worker without a grace period."""
    return Worker(settings=WorkerSettings(queues=(QUEUE,), poll_interval=0.1, shutdown_grace=0.1))


worker = new_worker()


def print_line(text: str) -> None:
    """Print a line for the parent process."""
    print(text, flush=True)


def hang() -> None:
    """Block the thread forever."""
    print_line("started")
    threading.Event().wait()


async def ignore_cancellation() -> None:
    """Ignore every cancellation."""
    print_line("started")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


async def ignore_cancellation_and_close() -> None:
    """Ignore every cancellation, and also the close of the coroutine."""
    print_line("started")
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            continue


@worker.handler("hangs", timeout=60, max_attempts=1)
async def hangs() -> None:
    """Misbehave as the command line says."""
    match MISBEHAVIOUR:
        case "thread":
            await asyncio.to_thread(hang)
        case "shielded thread":
            await asyncio.shield(asyncio.to_thread(hang))
        case "ignores cancellation":
            await ignore_cancellation()
        case "child task":
            async with asyncio.TaskGroup() as group:
                group.create_task(ignore_cancellation())
        case "ignores cancellation and close":
            await ignore_cancellation_and_close()
        case "cancels all tasks":
            print_line("started")
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(60)
        case "leaves a task":
            asyncio.get_running_loop().left = asyncio.create_task(asyncio.to_thread(hang))  # type: ignore[attr-defined]
            await asyncio.Event().wait()


@worker.handler("hangs-in-thread", timeout=60, max_attempts=1)
def hangs_in_thread() -> None:
    """Block the thread forever."""
    hang()


async def run_two_workers() -> None:
    """Run two workers concurrently."""
    other_worker = new_worker()
    other_worker.handler("other")(lambda: print_line("other"))
    await asyncio.gather(worker.run(), other_worker.run())


if __name__ == "__main__":
    if MISBEHAVIOUR == "two workers":
        asyncio.run(run_two_workers())
    else:
        for _ in range(int(RUNS[0]) if RUNS else 1):
            try:
                asyncio.run(worker.run())
                print_line("stopped")
            except PictureQueueError as error:
                print_line(str(error))
