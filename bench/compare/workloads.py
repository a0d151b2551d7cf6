"""The workloads, their order, and the reliability of each figure."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from compare.measure import Bench, Figures, bench, idle, pick_up, run_prefilled
from compare.server import Server
from compare.systems import System


@dataclass(frozen=True)
class Size:
    """The sizes of the workloads.

    Args:
        one: The number of jobs enqueued one by one.
        bulk: The number of jobs enqueued in bulk, and of jobs that workers run.
        many: The number of jobs of the long run; 0 to skip it.
        latencies: The number of jobs whose start delay is measured.
        loaded: The number of jobs that are enqueued at 500 per second.
        finished: The number of finished rows of the growth workload; a fifth as many are due later.
        held: The seconds of the held snapshot.
        idle: The seconds for which an idle worker is measured.
        time_limit: The time limit in seconds for slow workers.
        settle: The seconds of rest for the disk after large writes.
    """

    one: int = 1000
    bulk: int = 20_000
    many: int = 100_000
    latencies: int = 400
    loaded: int = 2500
    finished: int = 1_000_000
    held: int = 120
    idle: int = 10
    time_limit: float = 8.0
    settle: float = 5.0


QUICK = Size(
    one=300,
    bulk=10_000,
    many=0,
    latencies=100,
    loaded=1000,
    finished=200_000,
    held=15,
    idle=5,
    time_limit=5.0,
    settle=3.0,
)


@dataclass(frozen=True)
class Context:
    """The system and the sizes of a run."""

    server: Server
    system: System
    unfinished: str
    size: Size

    def bench(self, **options: Any) -> Any:
        """Create a fresh database of the system; see `compare.measure.bench`."""
        return bench(self.server, self.system, self.unfinished, **options)


@dataclass(frozen=True)
class Workload:
    """A measurement.

    Args:
        name: The name in the report.
        title: The title in the report.
        units: The names of its figures, and their units.
        measure: A function that returns the figures; measurements in turns are a list.
        rounds: The maximum number of rounds; long measurements need not be repeated.
        only: The names of its systems; empty for all.
        repeats: The number of measurements per round, for short ones with much noise.
    """

    name: str
    title: str
    units: dict[str, str]
    measure: Callable[[Context], Awaitable[Figures | list[Figures]]]
    rounds: int = 100
    only: tuple[str, ...] = ()
    repeats: int = 1


async def enqueue_one(at: Context) -> Figures:
    async with at.bench() as found:
        return {"rate": at.size.one / await found.run("enqueue-one", n=at.size.one)}


async def enqueue_eight(at: Context) -> Figures:
    async with at.bench() as found:
        return {"rate": at.size.one / await found.run("enqueue-one", n=at.size.one, lanes=8)}


async def enqueue_bulk(at: Context) -> Figures:
    async with at.bench() as found:
        return {"rate": at.size.bulk / await found.run("enqueue-bulk", n=at.size.bulk)}


async def prefilled(found: Bench, jobs: int, priorities: int = 1) -> None:
    await found.run("prefill", n=jobs, priorities=priorities)
    await found.connection.execute("checkpoint")


async def default_worker(at: Context) -> Figures:
    async with at.bench(tuned=False) as found:
        await prefilled(found, at.size.bulk)
        return await run_prefilled(found, at.size.bulk, 1, time_limit=at.size.time_limit)


async def one_worker(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, at.size.bulk)
        return await run_prefilled(found, at.size.bulk, 1, time_limit=at.size.time_limit)


async def long_run(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, at.size.many)
        return await run_prefilled(found, at.size.many, 1, time_limit=2 * at.size.time_limit)


async def two_workers(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, at.size.bulk)
        return await run_prefilled(found, at.size.bulk, 2, time_limit=at.size.time_limit)


async def priorities(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, 10_000, priorities=10)
        return await run_prefilled(found, 10_000, 1, time_limit=at.size.time_limit)


async def rate_of(found: Bench, at: Context, jobs: int) -> float:
    await prefilled(found, jobs)
    return (await run_prefilled(found, jobs, 1, time_limit=at.size.time_limit))["rate"]


async def grown(at: Context) -> list[Figures]:
    """Measure in turns an empty table, a grown one, and its copy after ANALYZE."""
    await at.server.autovacuum(False)
    try:
        async with at.bench(name="grown") as found:
            await found.run("bloat", finished=at.size.finished, future=at.size.finished // 5)
        async with (
            at.bench(name="empty") as empty,
            at.bench(name="before", like="grown") as before,
            at.bench(name="after", like="grown") as after,
        ):
            await after.connection.execute("analyze")
            # Gigabytes were written, and the disk is busy with them for a while.
            await after.connection.execute("checkpoint")
            os.sync()
            await asyncio.sleep(at.size.settle)
            tables = {"empty": empty, "before": before, "after": after}
            # One of our targets depends on this figure, and single short measurements differ by a
            # fifth.
            turns, jobs = (3, 3 * at.size.bulk) if at.system.ours else (1, at.size.bulk)
            return [
                {name: await rate_of(table, at, jobs) for name, table in tables.items()}
                for _ in range(turns)
            ]
    finally:
        for name in ("grown", "empty", "before", "after"):
            await at.server.drop(f"{name}_{at.system.name}")
        await at.server.autovacuum(True)


async def latency_idle(at: Context) -> Figures:
    async with at.bench() as found:
        return await pick_up(found, at.size.latencies, 0.02)


async def latency_loaded(at: Context) -> Figures:
    async with at.bench() as found:
        return await pick_up(found, at.size.loaded, 0.002)


async def held_snapshot(at: Context) -> Figures:
    async with at.bench() as found:
        holder = await found.connect()
        transaction = holder.transaction(isolation="repeatable_read")
        await transaction.start()
        await holder.fetchval("select count(*) from pg_class")
        try:
            return await pick_up(found, 800 * at.size.held, 1 / 800)
        finally:
            await transaction.rollback()
            await holder.close()


async def idle_worker(at: Context) -> Figures:
    async with at.bench() as found:
        return await idle(found, at.size.idle)


RATE = {"rate": "jobs/s"}
DELAYS = {"p50": "ms", "p95": "ms", "p99": "ms"}
OURS = ("picture_queue",)
HTTP = ("picture_queue_http",)
WORKERS = {**RATE, "rss": "MB", "cpu": "µs a job"}

WORKLOADS = (
    Workload("enqueue_one", "enqueue one at a time", RATE, enqueue_one, repeats=4),
    Workload("enqueue_eight", "enqueue one at a time, 8 callers", RATE, enqueue_eight, only=HTTP),
    Workload("enqueue_bulk", "bulk enqueue, 1,000 a call", RATE, enqueue_bulk),
    Workload(
        "noop_default", "no-op jobs, one worker as it comes", WORKERS, default_worker, rounds=2
    ),
    Workload("noop_tuned", "no-op jobs, one worker tuned", WORKERS, one_worker),
    Workload("noop_long", "100,000 no-op jobs, one worker tuned", WORKERS, long_run, rounds=1),
    Workload("noop_two", "no-op jobs, two workers tuned", WORKERS, two_workers),
    Workload("mixed_priorities", "10,000 jobs of ten priorities", WORKERS, priorities, rounds=1),
    Workload("latency_idle", "pick-up after commit, idle worker", DELAYS, latency_idle),
    Workload("latency_500", "pick-up at 500 jobs a second", DELAYS, latency_loaded, rounds=1),
    Workload(
        "growth",
        "rate in an empty table, then with 1,000,000 finished and 200,000 future rows, before and "
        "after ANALYZE",
        {"empty": "jobs/s", "before": "jobs/s", "after": "jobs/s"},
        grown,
        rounds=1,
    ),
    Workload(
        "held_snapshot",
        "800 jobs a second under a held snapshot",
        {**DELAYS, "left": "jobs"},
        held_snapshot,
        rounds=1,
        only=OURS,
    ),
    Workload(
        "idle", "idle worker", {"queries": "queries/s", "core": "% of a core"}, idle_worker, 1, OURS
    ),
)

#: The names of all workloads.
EVERYBODY = tuple(workload.name for workload in WORKLOADS)
