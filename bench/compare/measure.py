"""A single measurement of a system: prepare a database, run the programs, return the figures."""

import asyncio
import contextlib
import json
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from compare.server import API_DATABASE, Connection, Server
from compare.systems import System

Figures = dict[str, float]

_COMMAND_TIMEOUT = 600.0  # seconds, for a program that prepares or enqueues jobs
_START_TIMEOUT = 60.0  # seconds, for the start of a worker
_STOP_TIMEOUT = 30.0  # seconds, for the stop of a worker
_POLL_INTERVAL = 0.01  # seconds between two queries for unfinished jobs
_OWN_QUERIES = 2  # transactions of the benchmark itself between the two counts of `measure_idle`


class InvalidMeasurement(Exception):
    """A measurement in which a job was lost or ran twice, so that its figures are invalid."""


@dataclass
class Bench:
    """A system in its own database.

    Args:
        system: The measured system.
        dsn: The address of its database.
        unfinished: The statement that counts due and unfinished jobs.
        tuned: True to run its worker with its best settings instead of the defaults.
        connection: An open connection to its database.
    """

    system: System
    dsn: str
    unfinished: str
    tuned: bool
    connection: Connection

    async def connect(self) -> Connection:
        """Open another connection to the database."""
        return await asyncpg.connect(self.dsn)

    async def run(self, command: str, **options: Any) -> float:
        """Run a command of the system's program to the end; return the seconds that it measured."""
        arguments = [f"--{name}={value}" for name, value in options.items()]
        process = await asyncio.create_subprocess_exec(
            *self.system.command,
            command,
            *arguments,
            env=self.system.environ(PEER_DSN=self.dsn),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.system.name} {command} ended with {process.returncode}")
        return float(json.loads(output)["seconds"]) if output else 0.0

    async def count_unfinished(self) -> int:
        """Return the number of due and unfinished jobs."""
        return int(await self.connection.fetchval(self.unfinished))

    @asynccontextmanager
    async def workers(
        self, count: int, times_file: Path | None = None
    ) -> AsyncIterator[list["WorkerProcess"]]:
        """Run workers during the block; all of them begin when the block is entered.

        Args:
            count: The number of workers.
            times_file: The file to which a worker writes the start times of its jobs; None: they
                are not recorded.
        """
        options = ["--tuned"] if self.tuned else []
        if times_file is not None:
            options.append(f"--file={times_file}")
        started = [await WorkerProcess.start(self.system, self.dsn, options) for _ in range(count)]
        try:
            for worker in started:
                await worker.wait_until_ready()
            for worker in started:
                worker.begin()
            yield started
        finally:
            for worker in started:
                await worker.stop()


class WorkerProcess:
    """A worker process and its output.

    Attributes:
        handled: The number of jobs that the worker has handled so far.
        first_at: The time of the first call of its handler, as Unix time.
        totals: The last message of the worker, with the totals of its jobs and its resource usage.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.handled = 0
        self.first_at = 0.0
        self.totals: dict[str, Any] = {}
        self._ready = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, system: System, dsn: str, options: list[str]) -> "WorkerProcess":
        """Start the process; the worker waits for `begin`."""
        process = await asyncio.create_subprocess_exec(
            *system.command,
            "work",
            *options,
            env=system.environ(PEER_DSN=dsn),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            if message["event"] == "ready":
                self._ready.set()
            elif message["event"] == "count":
                self.handled, self.first_at = message["n"], message["first"]
            else:
                self.totals = message

    @property
    def process(self) -> psutil.Process:
        """The process, for measurements by psutil."""
        return psutil.Process(self._process.pid)

    async def wait_until_ready(self) -> None:
        """Wait until the worker is ready to begin."""
        async with asyncio.timeout(_START_TIMEOUT):
            await self._ready.wait()

    def begin(self) -> None:
        """Let the worker begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def stop(self) -> None:
        """Stop the worker and read the rest of its output; kill it if it does not stop in time."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._process.wait()
                await self._listening
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def open_bench(
    server: Server,
    system: System,
    unfinished: str,
    *,
    tuned: bool = True,
    name: str = "run",
    template: str = "template",
) -> AsyncIterator[Bench]:
    """Create a fresh database for one measurement, and connect to it.

    Args:
        server: The server of the database.
        system: The system that uses it.
        unfinished: The statement that counts due and unfinished jobs.
        tuned: True to run workers with their best settings.
        name: The first part of the name of the database. The database is kept until another
            database of this name is created.
        template: The first part of the name of the database that is copied.
    """
    if system.over_http:
        database = API_DATABASE
        await server.clear(database)
    else:
        database = f"{name}_{system.name}"
        await server.copy(f"{template}_{system.name}", database)
    dsn = server.dsn(database, "postgres")
    connection = await asyncpg.connect(server.dsn(database), command_timeout=120)
    try:
        yield Bench(system, dsn, unfinished, tuned, connection)
    finally:
        await connection.close()


async def run_prefilled(
    bench: Bench, jobs: int, workers: int, time_limit: float = 120.0
) -> Figures:
    """Let workers run the prefilled jobs, and check by their numbers that each ran exactly once.

    Args:
        bench: The system with its jobs.
        jobs: The number of jobs, which are numbered from 0.
        workers: The number of worker processes.
        time_limit: The time limit in seconds, after which the rate counts only the finished jobs.

    Returns:
        Jobs per second, from the first call of a handler until no job is unfinished;
        peak memory and CPU of the first worker.
    """
    async with bench.workers(workers) as running:
        deadline = time.time() + time_limit
        while time.time() < deadline:
            handled = sum(worker.handled for worker in running)
            # The time before the query, because in a large table the query takes a while.
            ended = time.time()
            if handled >= jobs and not await bench.count_unfinished():
                break
            await asyncio.sleep(_POLL_INTERVAL)
        began = min((worker.first_at for worker in running if worker.handled), default=ended)
        handled = sum(worker.handled for worker in running)
        is_complete = handled >= jobs
    distinct = sum(worker.totals.get("distinct", 0) for worker in running)
    twice = [number for worker in running for number in worker.totals.get("twice", ())]
    if is_complete and (twice or distinct != jobs):
        raise InvalidMeasurement(
            f"{bench.system.name}: {distinct} of {jobs} handled, twice: {twice}"
        )
    totals = running[0].totals
    return {
        "rate": handled / max(ended - began, 1e-9) if handled else 0.0,
        "rss": totals.get("max_rss_mb", 0.0),
        # CPU microseconds a job, estimated from the first worker and its share of the jobs.
        "cpu": totals.get("cpu_seconds", 0.0) / max(handled, 1) * workers * 1e6,
    }


async def measure_pick_up(bench: Bench, jobs: int, gap: float) -> Figures:
    """Enqueue jobs one by one for an idle worker, and measure the delay until each starts.

    Args:
        bench: The system.
        jobs: The number of jobs.
        gap: The mean interval between two enqueues, in seconds.

    Returns:
        Milliseconds from the commit to the handler (p50, p95, p99), and the number of unfinished
        jobs right after the last enqueue.
    """
    with tempfile.TemporaryDirectory() as directory:
        starts_file, commits_file = Path(directory) / "starts", Path(directory) / "commits"
        async with bench.workers(1, starts_file):
            await asyncio.sleep(2)  # until the worker is idle
            await bench.run("produce", n=jobs, gap=gap, file=commits_file)
            left = await bench.count_unfinished()
            deadline = time.time() + 30
            while time.time() < deadline and await bench.count_unfinished():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)  # until the worker has recorded the last job
        starts, commits = json.loads(starts_file.read_text()), json.loads(commits_file.read_text())
    delays = sorted((starts[n] - at) * 1000 for n, at in commits.items() if n in starts)
    if len(delays) < len(commits):
        raise InvalidMeasurement(
            f"{bench.system.name}: {len(delays)} of {len(commits)} jobs were started"
        )
    return {
        name: delays[min(int(len(delays) * share), len(delays) - 1)]
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    } | {"left": float(left)}


async def measure_idle(bench: Bench, seconds: float) -> Figures:
    """Measure an idle worker: statements per second, and CPU use in percent of a core."""
    commits = "select xact_commit from pg_stat_database where datname = current_database()"
    async with bench.workers(1) as (worker,):
        await asyncio.sleep(3)  # until the worker is idle
        cpu_before = worker.process.cpu_times()
        commits_before = await _read_count(bench.connection, commits)
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        commits_after = await _read_count(bench.connection, commits)
        cpu_after = worker.process.cpu_times()
        took = time.perf_counter() - began
    cpu_seconds = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
    return {
        "queries": (commits_after - commits_before - _OWN_QUERIES) / took,
        "core": cpu_seconds / took * 100,
    }


async def _read_count(connection: Connection, statement: str) -> float:
    # A session adds its transactions to the statistics only after an idle second.
    await asyncio.sleep(1.2)
    await connection.execute("select pg_stat_clear_snapshot()")
    return float(await connection.fetchval(statement))
