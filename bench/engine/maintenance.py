"""Workloads for the cost of maintenance: idle workers, running jobs, and schedules."""

import asyncio
import time
from pathlib import Path

from engine.database import Calls, Database, Job
from engine.workload import Figure, Samples, Size, Workload

_IDLE_WORKERS = 10
_LEASE_SECONDS = 3600.0  # Long enough that no lease expires during a measurement.
_MAX_PAUSE = 60.0  # seconds
_MIN_PAUSE = 0.001  # seconds


async def maintain_until(calls: Calls, worker: str, stopped: asyncio.Event) -> list[float]:
    """Call maintenance until an event is set, each time when the last answer asks for it.

    Returns:
        The durations of the calls in milliseconds.
    """
    durations = []
    while not stopped.is_set():
        took, next_in = await calls.maintain(worker)
        durations.append(took)
        pause = min(max(next_in, _MIN_PAUSE), _MAX_PAUSE)
        try:
            async with asyncio.timeout(pause):
                await stopped.wait()
        except TimeoutError:
            pass
    return durations


def _cpu_seconds_of(pid: int) -> float:
    # psutil's CPU times are multiples of 10 ms; schedstat has nanoseconds.
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def _cpu_seconds(workers: list[Calls]) -> float:
    pids = [await calls.run("select pg_backend_pid()") for calls in workers]
    return sum(map(_cpu_seconds_of, pids))


async def _maintain_for(database: Database, count: int, seconds: float) -> tuple[float, float]:
    """Let workers do maintenance; return CPU time and call time, both in ms per second."""
    async with database.connect_many(count) as workers:
        await workers[0].acquire_maintenance_lease("idle-0")
        for _ in range(8):  # Call until each connection has planned its statements.
            for number, calls in enumerate(workers):
                await calls.maintain(f"idle-{number}")
        stopped = asyncio.Event()
        before, began = await _cpu_seconds(workers), time.monotonic()
        running = [
            asyncio.create_task(maintain_until(calls, f"idle-{number}", stopped))
            for number, calls in enumerate(workers)
        ]
        await asyncio.sleep(seconds)
        stopped.set()
        durations = [took for task in running for took in await task]
        elapsed = time.monotonic() - began
        cpu = await _cpu_seconds(workers) - before
    return cpu * 1000 / elapsed, sum(durations) / elapsed


async def measure_idle(database: Database, size: Size) -> Samples:
    """Measure the cost of maintenance for one and for ten workers when no job is due."""
    cpu_of_one, time_of_one = await _maintain_for(database, 1, size.maintenance_seconds)
    cpu_of_many, time_of_many = await _maintain_for(
        database, _IDLE_WORKERS, size.maintenance_seconds
    )
    return {
        "idle_one": [time_of_one],
        "idle_one_cpu": [cpu_of_one],
        "idle_many": [time_of_many],
        "idle_many_cpu": [cpu_of_many],
        "idle_ratio": [cpu_of_many / cpu_of_one],
    }


class RunningJobs:
    """A workload with many running jobs in each database, from `prepare` to `finish`."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[Job]] = {}

    async def prepare(self, database: Database, size: Size) -> None:
        """Enqueue jobs and claim them."""
        count = size.scaled(20_000)
        jobs = self._jobs[database.name] = []
        async with database.connect() as calls:
            await calls.fill_queue("running", count)
            while len(jobs) < count:
                amount = min(1000, count - len(jobs))
                _, claimed = await calls.claim("running", amount, lease_seconds=_LEASE_SECONDS)
                if not claimed:
                    raise RuntimeError(f"only {len(jobs)} of {count} jobs could be claimed")
                jobs += claimed
            await calls.run("analyze public.job_queue")
            await calls.run_maintenance()

    async def measure(self, database: Database, size: Size) -> Samples:
        """Time maintenance once a second while the jobs run."""
        jobs = self._jobs[database.name]
        durations, heartbeats = [], []
        async with database.connect() as calls:
            await calls.acquire_maintenance_lease()
            for second in range(int(size.maintenance_seconds)):
                await asyncio.sleep(1)
                durations.append((await calls.maintain())[0])
                heartbeats.append(await calls.heartbeat(jobs[second * 100 : second * 100 + 100]))
        return {
            "running_maintenance": [sum(durations) / len(durations)],
            "running_maintenance_max": [max(durations)],
            "running_heartbeat": heartbeats,
        }

    async def finish(self, database: Database, size: Size) -> None:
        """Report the jobs."""
        jobs = self._jobs.pop(database.name, [])
        async with database.connect() as calls:
            for begin in range(0, len(jobs), 1000):
                await calls.report(jobs[begin : begin + 1000])


async def prepare_schedules(database: Database, size: Size) -> None:
    """Create 1,000 schedules, none of them due."""
    async with database.connect() as calls:
        await calls.run(
            "select set_schedule('bench-' || i, jsonb_build_object("
            "'every_seconds', 86400, 'job_type', 'bench', 'queue', 'bench'))"
            " from generate_series(1, 1000) i"
        )
        await calls.run_maintenance()


async def measure_schedules(database: Database, size: Size) -> Samples:
    """Time maintenance once a second while no schedule is due."""
    async with database.connect() as calls:
        await calls.acquire_maintenance_lease()
        durations = []
        for _ in range(max(int(size.maintenance_seconds / 4), 2)):
            await asyncio.sleep(1)
            durations.append((await calls.maintain())[0])
    return {"schedules_idle": durations}


async def finish_schedules(database: Database, size: Size) -> None:
    """Delete the schedules."""
    async with database.connect() as calls:
        await calls.run("select delete_schedule('bench-' || i) from generate_series(1, 1000) i")


def _maintenance_turns(size: Size) -> int:
    return size.maintenance_turns


_RUNNING_JOBS = RunningJobs()

IDLE = Workload(
    "idle",
    {
        "idle_one": Figure("maintenance of an idle project, 1 worker", "ms/s"),
        "idle_one_cpu": Figure("… CPU", "ms/s"),
        "idle_many": Figure("maintenance of an idle project, 10 workers", "ms/s"),
        "idle_many_cpu": Figure("… CPU", "ms/s"),
        # Ten workers should cost as much as one; the bound allows 20 % of noise.
        "idle_ratio": Figure("… CPU of 10 workers, compared with one", "x", ("≤", 1.2)),
    },
    measure_idle,
    turns=_maintenance_turns,
)
RUNNING = Workload(
    "running",
    {
        "running_maintenance": Figure("maintenance, 20,000 running jobs", "ms/s", ("≤", 10)),
        "running_maintenance_max": Figure("… longest call", "ms"),
        "running_heartbeat": Figure("… heartbeat of 100", "ms"),
    },
    _RUNNING_JOBS.measure,
    _RUNNING_JOBS.prepare,
    _RUNNING_JOBS.finish,
    turns=_maintenance_turns,
)
SCHEDULES = Workload(
    "schedules",
    {"schedules_idle": Figure("maintenance, 1,000 schedules, none due", "ms", ("≤", 1))},
    measure_schedules,
    prepare_schedules,
    finish_schedules,
    turns=_maintenance_turns,
)
