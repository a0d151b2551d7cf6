"""The workloads, their order, and the reliability of each figure."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from compare.measure import (
    Bench,
    Figures,
    measure_idle,
    measure_pick_up,
    open_bench,
    run_prefilled,
)
from compare.server import Server
from compare.systems import System


@dataclass(frozen=True)
class Size:
    """The sizes of the workloads.

    Args:
        one: The number of jobs enqueued one by one.
        bulk: The number of jobs enqueued in bulk, and of jobs that workers run.
        many: The number of jobs of the long run; 0 to skip the long run.
        latencies: The number of jobs whose start delay is measured, with an idle worker.
        loaded: The number of jobs whose start delay is measured, at 500 jobs per second.
        finished: The number of finished rows of the growth workload. The table also gets a fifth of
            this number as rows that are due later.
        held: The seconds for which a snapshot is held.
        idle: The seconds for which an idle worker is measured.
        time_limit: The time limit in seconds for slow workers.
        disk_pause: The seconds to wait after large writes, until the disk is idle.
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
    disk_pause: float = 5.0


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
    disk_pause=3.0,
)


@dataclass(frozen=True)
class Context:
    """The system and the sizes of a run."""

    server: Server
    system: System
    unfinished: str
    size: Size

    def open_bench(self, **options: Any) -> Any:
        """Create a fresh database of the system; see `compare.measure.open_bench`."""
        return open_bench(self.server, self.system, self.unfinished, **options)


@dataclass(frozen=True)
class Workload:
    """A measurement.

    Args:
        name: The name in the report.
        title: The title in the report.
        units: The names of its figures, and their units.
        measure: A function that returns the figures, or a list of figures if it measures in turns.
        rounds: The maximum number of rounds; 1 for long measurements.
        only: The names of the systems to measure; empty for all systems.
        repeats: The number of measurements per round; several for short, noisy measurements.
    """

    name: str
    title: str
    units: dict[str, str]
    measure: Callable[[Context], Awaitable[Figures | list[Figures]]]
    rounds: int = 100
    only: tuple[str, ...] = ()
    repeats: int = 1


async def enqueue_one(context: Context) -> Figures:
    async with context.open_bench() as bench:
        return {"rate": context.size.one / await bench.run("enqueue-one", n=context.size.one)}


async def enqueue_eight(context: Context) -> Figures:
    async with context.open_bench() as bench:
        return {
            "rate": context.size.one / await bench.run("enqueue-one", n=context.size.one, lanes=8)
        }


async def enqueue_bulk(context: Context) -> Figures:
    async with context.open_bench() as bench:
        return {"rate": context.size.bulk / await bench.run("enqueue-bulk", n=context.size.bulk)}


async def prefill(bench: Bench, jobs: int, priorities: int = 1) -> None:
    await bench.run("prefill", n=jobs, priorities=priorities)
    await bench.connection.execute("checkpoint")


async def default_worker(context: Context) -> Figures:
    async with context.open_bench(tuned=False) as bench:
        await prefill(bench, context.size.bulk)
        return await run_prefilled(bench, context.size.bulk, 1, time_limit=context.size.time_limit)


async def one_worker(context: Context) -> Figures:
    async with context.open_bench() as bench:
        await prefill(bench, context.size.bulk)
        return await run_prefilled(bench, context.size.bulk, 1, time_limit=context.size.time_limit)


async def long_run(context: Context) -> Figures:
    async with context.open_bench() as bench:
        await prefill(bench, context.size.many)
        return await run_prefilled(
            bench, context.size.many, 1, time_limit=2 * context.size.time_limit
        )


async def two_workers(context: Context) -> Figures:
    async with context.open_bench() as bench:
        await prefill(bench, context.size.bulk)
        return await run_prefilled(bench, context.size.bulk, 2, time_limit=context.size.time_limit)


async def priorities(context: Context) -> Figures:
    async with context.open_bench() as bench:
        await prefill(bench, 10_000, priorities=10)
        return await run_prefilled(bench, 10_000, 1, time_limit=context.size.time_limit)


async def measure_rate(bench: Bench, context: Context, jobs: int) -> float:
    await prefill(bench, jobs)
    return (await run_prefilled(bench, jobs, 1, time_limit=context.size.time_limit))["rate"]


async def measure_growth(context: Context) -> list[Figures]:
    """Measure in turns an empty table, a grown one, and its copy after ANALYZE."""
    await context.server.set_autovacuum(False)
    try:
        async with context.open_bench(name="grown") as bench:
            await bench.run(
                "bloat", finished=context.size.finished, future=context.size.finished // 5
            )
        async with (
            context.open_bench(name="empty") as empty,
            context.open_bench(name="before", template="grown") as before,
            context.open_bench(name="after", template="grown") as after,
        ):
            await after.connection.execute("analyze")
            # Gigabytes were written, so the disk is busy for a while.
            await after.connection.execute("checkpoint")
            os.sync()
            await asyncio.sleep(context.size.disk_pause)
            tables = {"empty": empty, "before": before, "after": after}
            # Single short measurements differ by a fifth. One of our targets depends on this
            # figure, so picture-queue is measured longer and in several turns.
            turns, jobs = (
                (3, 3 * context.size.bulk) if context.system.ours else (1, context.size.bulk)
            )
            return [
                {name: await measure_rate(table, context, jobs) for name, table in tables.items()}
                for _ in range(turns)
            ]
    finally:
        for name in ("grown", "empty", "before", "after"):
            await context.server.drop(f"{name}_{context.system.name}")
        await context.server.set_autovacuum(True)


async def latency_idle(context: Context) -> Figures:
    async with context.open_bench() as bench:
        return await measure_pick_up(bench, context.size.latencies, 0.02)


async def latency_loaded(context: Context) -> Figures:
    async with context.open_bench() as bench:
        return await measure_pick_up(bench, context.size.loaded, 0.002)


async def held_snapshot(context: Context) -> Figures:
    async with context.open_bench() as bench:
        holder = await bench.connect()
        transaction = holder.transaction(isolation="repeatable_read")
        await transaction.start()
        await holder.fetchval("select count(*) from pg_class")
        try:
            return await measure_pick_up(bench, 800 * context.size.held, 1 / 800)
        finally:
            await transaction.rollback()
            await holder.close()


async def idle_worker(context: Context) -> Figures:
    async with context.open_bench() as bench:
        return await measure_idle(bench, context.size.idle)


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
        "noop_default", "no-op jobs, one worker with defaults", WORKERS, default_worker, rounds=2
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
        measure_growth,
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
ALL_WORKLOADS = tuple(workload.name for workload in WORKLOADS)
