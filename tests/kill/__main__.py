"""The kill test: it kills all parts of the system while jobs run, and counts lost work.

``python -m tests.kill [--seconds 300] [--workers 4] [--rate 10] [--seed N]``, or `make test-kill`.
The test enqueues jobs at a steady rate, for workers over HTTP and over direct connections. After
the faults, all jobs must end. The exit code is 1 if a job was lost, ran twice under one lease, or
used up an attempt that never started. It is also 1 if a worker crashed, could not start or did not
stop.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg

from picture_queue.local import LocalSupabase

from ..databases import connect
from ..faults.proxy import Proxy
from .chaos import LEASE, QUEUE, Chaos, Workers

FINISH_TIMEOUT = 180.0  # seconds, for the jobs that remain after the faults
STOP_TIMEOUT = 60.0  # seconds, for the stop of a worker
# Errors of asyncpg after the end of a session. asyncpg raises InternalClientError if the session
# ends while a statement is prepared.
LOST_CONNECTION = (
    OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
)  # fmt: skip
MAX_ATTEMPTS = 100  # more attempts than kills can use up


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        enqueued: The number of enqueued jobs.
        lost: The number of jobs that did not complete with the expected result.
        twice: The number of attempts that ran twice under one lease.
        unstarted: The number of attempts that were used up but never started.
        attempts: The number of all attempts.
        uncounted: The number of starts that did not use up an attempt. Before the start was
            confirmed, the worker was killed, or was cut off until the end of the lease.
        crashes: The number of workers that ended unexpectedly after their start.
        refused: The number of workers that ended because the project did not respond at the start.
        unstopped: The number of workers that did not stop on request.
        injected: The number of injections of each fault.
        seconds: The time from the end of the faults to the end of the last job.
        seed: The seed of the random choices.
    """

    enqueued: int
    lost: int
    twice: int
    unstarted: int
    attempts: int
    uncounted: int
    crashes: int
    refused: int
    unstopped: int
    injected: dict[str, int]
    seconds: float
    seed: int

    @property
    def is_good(self) -> bool:
        """True if no work was lost and all workers started and stopped."""
        return not any(
            (self.lost, self.twice, self.unstarted, self.crashes, self.refused, self.unstopped)
        )

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.injected.items()))
        return (
            f"{'good' if self.is_good else 'BAD'} (seed {self.seed})\n"
            f"  jobs enqueued                   {self.enqueued:6}\n"
            f"  jobs lost                       {self.lost:6}\n"
            f"  run twice within one attempt    {self.twice:6}\n"
            f"  attempts lost without a start   {self.unstarted:6} of {self.attempts}\n"
            f"  starts that used no attempt up  {self.uncounted:6}\n"
            f"  workers that crashed            {self.crashes:6}\n"
            f"  workers that could not start    {self.refused:6}\n"
            f"  workers that did not stop       {self.unstopped:6}\n"
            f"  seconds until all jobs ended    {self.seconds:6.1f}\n"
            f"  {faults}"
        )


class Enqueuer:
    """A task that enqueues jobs at a steady rate, and records the jobs that were confirmed."""

    def __init__(self, dsn: str, rate: float, seed: int) -> None:
        self._dsn = dsn
        self._rate = rate
        self._started_at = monotonic()
        self._random = random.Random(seed)
        self.jobs: dict[UUID, int] = {}

    async def run(self) -> None:
        """Enqueue until cancelled."""
        while True:
            # The faults stop Postgres from time to time.
            with contextlib.suppress(*LOST_CONNECTION):
                connection = await connect(self._dsn, command_timeout=5)
                try:
                    await self._enqueue(connection)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.2)

    async def _enqueue(self, connection: Any) -> None:
        while True:
            job_id, number = uuid4(), len(self.jobs)
            seconds = self._random.choice((0, 0, 0, 0.1, 0.1, 0.3, 1.2 * LEASE))
            await connection.fetchval(
                "select enqueue_job('work', $1, 0, $2, max_attempts => $3, job_id => $4)",
                {"n": number, "seconds": seconds}, QUEUE, MAX_ATTEMPTS, job_id,
            )  # fmt: skip
            self.jobs[job_id] = number
            # Each job has a fixed time for its enqueue, so that a busy machine catches up later.
            next_at = self._started_at + len(self.jobs) / self._rate
            await asyncio.sleep(max(0.0, next_at - monotonic()))


async def count_unfinished(dsn: str, jobs: list[UUID]) -> int:
    connection = await connect(dsn)
    try:
        count: int = await connection.fetchval(
            "select count(*) from job_queue where id = any($1) and finished_at is null", jobs
        )
        return count
    finally:
        await connection.close()


async def wait_until_finished(dsn: str, jobs: list[UUID]) -> float:
    """Wait until all jobs have ended, for at most `FINISH_TIMEOUT` seconds; return the duration."""
    started_at = monotonic()
    while monotonic() - started_at < FINISH_TIMEOUT:
        with contextlib.suppress(*LOST_CONNECTION):
            if not await count_unfinished(dsn, jobs):
                break
        await asyncio.sleep(0.5)
    return monotonic() - started_at


def read_starts(directory: Path) -> list[tuple[UUID, UUID, int]]:
    """Return the job, the lease and the attempt number of each recorded start."""
    lines = [
        line.split()
        for file in directory.glob("starts-*")
        for line in file.read_text().splitlines()
    ]
    return [(UUID(job), UUID(lease), int(attempt)) for job, lease, attempt in lines]


async def check(dsn: str, jobs: dict[UUID, int], directory: Path) -> dict[str, int]:
    """Compare the database with the enqueued jobs and the recorded starts; return the counts."""
    connection = await connect(dsn)
    rows = await connection.fetch(
        "select job.id, job.status, job.result, job.attempt, job.error, array("
        "select to_jsonb(entry) from picture_queue.history as entry"
        " where entry.job_id = job.id order by entry.id) "
        "as history from job_queue as job where job.id = any($1)",
        list(jobs),
    )
    await connection.close()
    rows_by_id = {row["id"]: row for row in rows}
    starts = read_starts(directory)
    lost = [
        job for job, number in jobs.items()
        if job not in rows_by_id
        or (rows_by_id[job]["status"], rows_by_id[job]["result"]) != ("completed", number)
    ]  # fmt: skip
    starts_by_lease = Counter((job, lease) for job, lease, _ in starts)
    twice = [job_and_lease for job_and_lease, count in starts_by_lease.items() if count > 1]
    attempts = {(row["id"], number + 1) for row in rows for number in range(row["attempt"])}
    unstarted = attempts - {(job, attempt) for job, _, attempt in starts}
    for job in lost[:20]:
        print("lost:", dict(rows_by_id.get(job, {"id": job})), file=sys.stderr)
    for job, lease in twice:
        print(f"started more than once: job {job}, lease {lease}", file=sys.stderr)
    for job, attempt in unstarted:
        job_starts = [start[1:] for start in starts if start[0] == job]
        row = dict(rows_by_id[job])
        print(f"attempt {attempt} never started: {row}, starts: {job_starts}", file=sys.stderr)
    return {
        "lost": len(lost),
        "twice": len(twice),
        "unstarted": len(unstarted),
        "attempts": len(attempts),
        "uncounted": len(starts_by_lease) - len(attempts - unstarted),
    }


async def kill_everything(seconds: float, workers: int, rate: float, seed: int) -> Result:
    """Run the test.

    Args:
        seconds: The duration of the faults.
        workers: The number of worker processes.
        rate: The number of jobs enqueued per second.
        seed: The seed of the random choices.
    """
    with ExitStack() as exit_stack:
        # Committed data must survive an immediate shutdown of Postgres.
        stack = exit_stack.enter_context(LocalSupabase(durable=True))
        api, database = urlsplit(stack.api_url), urlsplit(stack.db_url)
        assert api.hostname and api.port and database.hostname and database.port
        proxies = (
            exit_stack.enter_context(Proxy(api.hostname, api.port, "http")),
            exit_stack.enter_context(Proxy(database.hostname, database.port, "postgres")),
        )
        directory = Path(exit_stack.enter_context(tempfile.TemporaryDirectory()))
        pool = Workers(stack, proxies, directory, workers)
        pool.start_all()
        enqueuer, chaos = Enqueuer(stack.db_url, rate, seed), Chaos(stack, proxies, pool, seed)
        try:
            enqueuing = asyncio.create_task(enqueuer.run())
            await chaos.run(seconds)
            enqueuing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await enqueuing
            finish_seconds = await wait_until_finished(stack.db_url, list(enqueuer.jobs))
            unstopped = await pool.stop_all(STOP_TIMEOUT)
        finally:
            pool.kill_all()
        checked = await check(stack.db_url, enqueuer.jobs, directory)
        return Result(
            len(enqueuer.jobs), **checked, crashes=pool.crashes, refused=pool.refused,
            unstopped=unstopped, injected=dict(chaos.injected), seconds=finish_seconds, seed=seed,
        )  # fmt: skip


def main() -> int:
    """Parse the arguments, run the test, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=10, help="jobs enqueued per second")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: {arguments.seconds:g} s of faults", flush=True)
    result = asyncio.run(
        kill_everything(arguments.seconds, arguments.workers, arguments.rate, arguments.seed)
    )
    print(result)
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
