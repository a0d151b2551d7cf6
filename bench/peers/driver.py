"""The commands of every peer: ``python <peer>.py <command>``.

The address of the database is in ``PEER_DSN``, because other users see command lines in ``ps``.

Commands print JSON, one object per line. This module does not depend on a queue. It runs in
the environment of the peers, and needs only the standard library, and asyncpg for ``bloat``.

``describe``      prints version, settings, and a statement that counts due and unfinished jobs
``setup``         installs the schema in an empty database
``enqueue-one``   enqueues --n jobs in --lanes concurrent tasks, each of which waits until a job is
                  durable before the next; prints the seconds
``enqueue-bulk``  enqueues --n jobs with 1,000 jobs per call; prints the seconds
``prefill``       enqueues --n jobs as fast as possible, with --priorities different priorities
``bloat``         inserts --finished and --future rows of finished and scheduled jobs
``produce``       enqueues --n jobs, one every --gap seconds, and records the commit times
``work``          runs a worker until SIGTERM: prints "ready", waits for a line on standard input,
                  prints the number of handled jobs at intervals, and at the end its totals, CPU
                  time and memory
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Handle = Callable[[int], None]
BULK = 1000  # The number of jobs per call.


class Driver(ABC):
    """The adapter of a queue.

    Args:
        dsn: The address of its database.
    """

    #: A statement that counts the due and unfinished jobs.
    unfinished: str
    #: True if the queue's own program runs on uvloop.
    uvloop = False
    #: A statement that inserts $1 finished jobs; None if the system deletes finished jobs.
    insert_finished_sql: str | None = None
    #: A statement that inserts $1 jobs that are due in a day or later.
    insert_future_sql: str

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the version and the worker's settings by mode."""

    @abstractmethod
    async def setup(self) -> None:
        """Install the schema."""

    @abstractmethod
    async def open(self) -> None:
        """Open connections for enqueues."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def enqueue(self, number: int) -> None:
        """Enqueue one job; it is durable when this returns."""

    @abstractmethod
    async def enqueue_many(self, numbers: Sequence[int], priorities: int) -> None:
        """Enqueue jobs in one call."""

    @abstractmethod
    async def work(self, handle: Handle, tuned: bool) -> None:
        """Run a worker until it is cancelled; its handler only calls `handle`."""

    async def execute(self, statement: str, *args: Any) -> None:
        """Run a statement."""
        import asyncpg

        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute("set statement_timeout = 0")
            await connection.fetch(statement, *args)
        finally:
            await connection.close()


class Record:
    """The jobs that a worker has handled.

    Args:
        with_times: True to record the start of each job.
    """

    def __init__(self, with_times: bool) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []
        self._with_times = with_times
        self._first: float | None = None

    def handle(self, number: int) -> None:
        """Record a job."""
        if self._with_times:
            self.times.append(time.time())
        elif self._first is None:
            self._first = time.time()
        self.numbers.append(number)

    async def report_progress(self) -> None:
        """Print the number of jobs every 20 ms, if it has changed.

        After a second without a change, the number is checked less often, because the cost of idle
        workers is measured too.
        """
        reported = unchanged = 0  # jobs printed last, and checks since the number changed
        while True:
            await asyncio.sleep(0.02 if unchanged < 50 else 0.5)
            unchanged += 1
            if len(self.numbers) > reported:
                reported, unchanged = len(self.numbers), 0
                print_json(event="count", n=reported, first=self._first or self.times[0])


def print_json(**fields: Any) -> None:
    """Print a JSON object."""
    print(json.dumps(fields), flush=True)


def main(kind: type[Driver]) -> None:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--priorities", type=int, default=1)
    parser.add_argument("--finished", type=int, default=0)
    parser.add_argument("--future", type=int, default=0)
    parser.add_argument("--gap", type=float, default=0.02)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--file")
    args = parser.parse_args()
    driver = kind(os.environ.get("PEER_DSN", ""))
    factory = None
    if kind.uvloop:
        with contextlib.suppress(ImportError):  # uvloop is not available on Windows.
            import uvloop

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_run(driver, args))


async def _run(driver: Driver, args: argparse.Namespace) -> None:
    match args.command:
        case "describe":
            print_json(unfinished=driver.unfinished, **driver.describe())
        case "setup":
            await driver.setup()
        case "bloat":
            if driver.insert_finished_sql is not None:
                await driver.execute(driver.insert_finished_sql, args.finished)
            await driver.execute(driver.insert_future_sql, args.future)
        case "work":
            await _work(driver, args)
        case command:
            await driver.open()
            try:
                await _enqueue(driver, command, args)
            finally:
                await driver.close()


def _peak_memory() -> float:
    """Return the peak memory of this program in MB.

    This is not ru_maxrss, which includes the memory of the parent process; see getrusage(2).
    """
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


async def _enqueue(driver: Driver, command: str, args: argparse.Namespace) -> None:
    if command == "enqueue-one":
        # Open connections, and fill caches and plans, before the measurement.
        await _enqueue_concurrently(driver, range(20 * args.lanes), args.lanes)
    began = time.perf_counter()
    if command == "enqueue-one":
        await _enqueue_concurrently(driver, range(args.n), args.lanes)
    elif command == "produce":
        await _produce(driver, args)
    else:
        for start in range(0, args.n, BULK):
            numbers = range(start, min(start + BULK, args.n))
            await driver.enqueue_many(numbers, args.priorities)
    print_json(seconds=time.perf_counter() - began)


async def _enqueue_concurrently(driver: Driver, numbers: range, lanes: int) -> None:
    async def enqueue_in_turn(lane_numbers: range) -> None:
        for number in lane_numbers:
            await driver.enqueue(number)

    await asyncio.gather(*(enqueue_in_turn(numbers[first::lanes]) for first in range(lanes)))


async def _produce(driver: Driver, args: argparse.Namespace) -> None:
    committed = []
    due = time.perf_counter()
    for number in range(args.n):
        # Jitter, since at regular intervals either every job or no job could coincide with periodic
        # work of the system.
        due += args.gap * random.uniform(0.5, 1.5)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await driver.enqueue(number)
        committed.append(time.time())
    with open(args.file, "w") as file:  # noqa: ASYNC230 - the measurement is over
        json.dump(dict(enumerate(committed)), file)


async def _work(driver: Driver, args: argparse.Namespace) -> None:
    record = Record(with_times=args.file is not None)
    loop = asyncio.get_running_loop()
    print_json(event="ready", pid=os.getpid())
    await loop.run_in_executor(None, sys.stdin.readline)
    reporting = asyncio.create_task(record.report_progress())
    working = asyncio.create_task(driver.work(record.handle, args.tuned))
    loop.add_signal_handler(signal.SIGTERM, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await working
    reporting.cancel()
    if args.file is not None:
        with open(args.file, "w") as file:  # noqa: ASYNC230 - the measurement is over
            json.dump(dict(zip(record.numbers, record.times, strict=True)), file)
    # Read the usage before the results are counted, because counting also takes memory.
    usage, memory = resource.getrusage(resource.RUSAGE_SELF), _peak_memory()
    twice = [number for number, times in Counter(record.numbers).items() if times > 1]
    print_json(
        event="end",
        n=len(record.numbers),
        distinct=len(set(record.numbers)),
        highest=max(record.numbers, default=-1),
        twice=twice[:5],
        max_rss_mb=memory,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )
