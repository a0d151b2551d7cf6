"""The workloads, their order, and the reliability of each figure."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from compare.measure import Bench, Figures, bench, drain, idle, pick_up
from compare.server import Server
from compare.systems import System


@dataclass(frozen=True)
class Size:
    """The sizes of the workloads.

    Args:
        one: Jobs enqueued one by one.
        bulk: Jobs enqueued in bulk, and worked off.
        many: Jobs of the long run; 0 leaves it out.
        latencies: Jobs whose pick-up is timed.
        loaded: Jobs at 500 a second.
        finished: Finished rows of the growth workload, and a fifth as many future ones.
        held: Seconds of the held snapshot.
        idle: Seconds an idle worker is watched.
        longest: Seconds after which a slow worker's rate is that of what it did.
        settle: Seconds the disk gets after much was written.
    """

    one: int = 1000
    bulk: int = 20_000
    many: int = 100_000
    latencies: int = 400
    loaded: int = 2500
    finished: int = 1_000_000
    held: int = 120
    idle: int = 10
    longest: float = 8.0
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
    longest=5.0,
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
        """A fresh database of the system, see `compare.measure.bench`."""
        return bench(self.server, self.system, self.unfinished, **options)


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    Args:
        name: As in the report.
        title: What it is, for people.
        units: The figures it gives, and their units.
        measure: Measures it; what is measured in turns is a list.
        rounds: Times it is measured at most; long ones need not be repeated.
        only: The systems it is for; empty: all.
        repeats: Times it is measured in each round; short ones say more that way.
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
        return await drain(found, at.size.bulk, 1, longest=at.size.longest)


async def one_worker(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, at.size.bulk)
        return await drain(found, at.size.bulk, 1, longest=at.size.longest)


async def long_run(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, at.size.many)
        return await drain(found, at.size.many, 1, longest=2 * at.size.longest)


async def two_workers(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, at.size.bulk)
        return await drain(found, at.size.bulk, 2, longest=at.size.longest)


async def priorities(at: Context) -> Figures:
    async with at.bench() as found:
        await prefilled(found, 10_000, priorities=10)
        return await drain(found, 10_000, 1, longest=at.size.longest)


async def rate_of(found: Bench, at: Context, jobs: int) -> float:
    await prefilled(found, jobs)
    return (await drain(found, jobs, 1, longest=at.size.longest))["rate"]


async def grown(at: Context) -> list[Figures]:
    """Take turns with an empty table, a grown one, and its copy after ANALYZE."""
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
            # Gigabytes were written: the disk is busy with them for a while, whoever asks.
            await after.connection.execute("checkpoint")
            os.sync()
            await asyncio.sleep(at.size.settle)
            tables = {"empty": empty, "before": before, "after": after}
            # A target hangs on ours, and single short looks differ by a fifth.
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

#: The names of all.
EVERYBODY = tuple(workload.name for workload in WORKLOADS)
