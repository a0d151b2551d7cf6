"""What maintenance costs, by what there is to maintain and by the number of workers."""

import asyncio
import time
from pathlib import Path

from engine.database import Calls, Database
from engine.workload import Figure, Samples, Size, Workload

_WORKERS = 10
_LEASE = 3600.0  # seconds; no lease ends while it is measured
_LONGEST_PAUSE = 60.0  # seconds
_SHORTEST_PAUSE = 0.001  # seconds


async def maintain_until(calls: Calls, worker: str, stopped: asyncio.Event) -> list[float]:
    """Maintain as a worker does, as often as the answers say; return the durations."""
    durations = []
    while not stopped.is_set():
        took, next_in = await calls.maintain(worker)
        durations.append(took)
        pause = min(max(next_in, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        try:
            async with asyncio.timeout(pause):
                await stopped.wait()
        except TimeoutError:
            pass
    return durations


def _cpu_seconds_of(pid: int) -> float:
    # psutil counts ticks of 10 ms; the scheduler of Linux counts nanoseconds.
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def _cpu_seconds(workers: list[Calls]) -> float:
    pids = [await calls.run("select pg_backend_pid()") for calls in workers]
    return sum(map(_cpu_seconds_of, pids))


async def _watch(database: Database, count: int, seconds: float) -> tuple[float, float]:
    """Let workers maintain; return milliseconds of CPU and of calls, each a second."""
    async with database.connect_many(count) as workers:
        for _ in range(8):  # each connection plans its statements
            for number, calls in enumerate(workers):
                await calls.maintain(f"idle-{number}")
        await workers[0].promote()
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
    """Watch what one and ten workers spend on maintenance when there is nothing to do."""
    one_cpu, one = await _watch(database, 1, size.watch_seconds)
    many_cpu, many = await _watch(database, _WORKERS, size.watch_seconds)
    return {
        "idle_one": [one],
        "idle_one_cpu": [one_cpu],
        "idle_many": [many],
        "idle_many_cpu": [many_cpu],
        "idle_ratio": [many_cpu / one_cpu],
    }


async def _start_running(calls: Calls, count: int) -> list[dict[str, object]]:
    await calls.stock("running", count)
    jobs: list[dict[str, object]] = []
    while len(jobs) < count:
        _, claimed = await calls.claim(
            "running", min(1000, count - len(jobs)), lease_seconds=_LEASE
        )
        if not claimed:
            raise RuntimeError(f"only {len(jobs)} of {count} jobs could be claimed")
        jobs += claimed
    return jobs


async def measure_running(database: Database, size: Size) -> Samples:
    """Maintain once a second while many jobs run."""
    async with database.connect() as calls:
        jobs = await _start_running(calls, size.scaled(20_000))
        await calls.run("analyze public.job_queue")
        for _ in range(8):
            await calls.maintain()
        await calls.promote()
        durations, heartbeats = [], []
        for second in range(max(int(size.watch_seconds), 1)):
            began = time.monotonic()
            durations.append((await calls.maintain())[0])
            heartbeats.append(await calls.heartbeat(jobs[second * 10 : second * 10 + 100]))
            await asyncio.sleep(max(1 - (time.monotonic() - began), 0))
        for begin in range(0, len(jobs), 1000):
            await calls.report(jobs[begin : begin + 1000])
    return {
        "running_maintenance": [sum(durations) / len(durations)],
        "running_maintenance_max": [max(durations)],
        "running_heartbeat": heartbeats,
    }


async def prepare_schedules(database: Database, size: Size) -> None:
    """Create 1,000 schedules, none of them due."""
    async with database.connect() as calls:
        await calls.run(
            "select set_schedule('bench-' || i, jsonb_build_object("
            "'every_seconds', 86400, 'job_type', 'bench', 'queue', 'bench'))"
            " from generate_series(1, 1000) i"
        )


async def measure_schedules(database: Database, size: Size) -> Samples:
    """Maintain once a second while schedules wait."""
    async with database.connect() as calls:
        for _ in range(8):
            await calls.maintain()
        await calls.promote()
        durations = []
        for _ in range(max(int(size.watch_seconds / 2), 2)):
            await asyncio.sleep(1)
            durations.append((await calls.maintain())[0])
    return {"schedules_idle": durations}


async def finish_schedules(database: Database, size: Size) -> None:
    """Delete the schedules."""
    async with database.connect() as calls:
        await calls.run("select delete_schedule('bench-' || i) from generate_series(1, 1000) i")


IDLE = Workload(
    "idle",
    {
        "idle_one": Figure("maintenance of an idle project, 1 worker", "ms/s"),
        "idle_one_cpu": Figure("… CPU", "ms/s"),
        "idle_many": Figure("maintenance of an idle project, 10 workers", "ms/s"),
        "idle_many_cpu": Figure("… CPU", "ms/s"),
        # Ten workers should cost what one costs; a fifth is left for noise.
        "idle_ratio": Figure("… CPU of 10 workers, of that of one", "x", ("≤", 1.2)),
    },
    measure_idle,
    once=True,
)
RUNNING = Workload(
    "running",
    {
        "running_maintenance": Figure("maintenance, 20,000 running jobs", "ms/s", ("≤", 10)),
        "running_maintenance_max": Figure("… longest call", "ms"),
        "running_heartbeat": Figure("… heartbeat of 100", "ms"),
    },
    measure_running,
    once=True,
)
SCHEDULES = Workload(
    "schedules",
    {"schedules_idle": Figure("maintenance, 1,000 schedules, none due", "ms", ("≤", 1))},
    measure_schedules,
    prepare_schedules,
    finish_schedules,
    once=True,
)
