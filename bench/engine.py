"""What the queue engine costs: SQL functions over direct connections, no worker and no HTTP.

``python bench/engine.py [--json] [--quick] [--held SECONDS] [--unsafe]``. It starts a Postgres of
its own; commits are durable (fsync on) unless ``--unsafe``. Goals are there to look at: a number
beyond one is marked, and nothing fails. Absolute numbers move from machine to machine; the ratios
compare what was measured minutes apart on one.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from picture_queue.local.stack import LocalSupabase

Connection = Any  # asyncpg.Connection[asyncpg.Record], which is no type at run time
QUEUE = "bench"
JOB_TYPE = "bench"
CLAIM = 100  # jobs a claim

# What is compared; others come to stand beside it, measured by the same workloads.
SYSTEMS = ("picture-queue",)

# name: (what it measures, unit, goal: ("≤" or "≥", number) or None)
WORKLOADS: dict[str, tuple[str, str, tuple[str, float] | None]] = {
    "enqueue_one": ("enqueue of one job", "ms", None),
    "enqueue_bulk": ("enqueue of 10,000 jobs a call", "jobs/s", ("≥", 20_000)),
    "claim_empty": ("claim of 100, else empty table", "ms", None),
    "report": ("report of 100", "ms", None),
    "cycle": ("claim and report, 100 a call", "jobs/s", None),
    "claim_full": ("claim of 100, 1.3 million other jobs", "ms", None),
    "full_ratio": ("… compared with the empty table", "x", ("≤", 1.5)),
    "claim_held": ("claim of 100, old snapshot, under load", "ms", None),
    "held_ratio": ("… compared with no old snapshot", "x", ("≤", 3)),
    "cycle_plain": ("claim and report, no limits", "jobs/s", None),
    "cycle_limited": ("claim and report, fair share and limits", "jobs/s", None),
    "limits_cost": ("… cost of fair share and limits where used", "%", ("≤", 25)),
    "elsewhere_cost": ("… cost in a queue that uses neither, beside one that does", "%", None),
    "schedules_idle": ("look for due schedules, none of 1,000 due", "ms", ("≤", 1)),
}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        rounds: Claims a figure.
        scale: Share of the 1.3 million jobs.
        held_seconds: How long the old snapshot is held.
    """

    rounds: int
    scale: float
    held_seconds: float


def figures(seconds: list[float], unit: str = "ms", amount: int = 1) -> dict[str, float]:
    """Returns median and 95th percentile of durations, as milliseconds or as amounts a second.

    Of rates the 95th percentile is that of the durations: nineteen of twenty were faster.
    """
    ordered = sorted(seconds)
    found = {"p50": statistics.median(ordered), "p95": ordered[int(len(ordered) * 0.95)]}
    if unit == "jobs/s":
        return {name: round(amount / value) for name, value in found.items()}
    return {name: round(value * 1000, 2) for name, value in found.items()}


class Engine:
    """A connection, and the calls that are measured; each returns how long it took."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def enqueue(self, jobs: int, queue: str = QUEUE, **given: Any) -> float:
        """Enqueues jobs in one call; a function in `given` is called with each job's number."""
        items = json.dumps(
            [
                {"job_type": JOB_TYPE, "queue": queue, "payload": {"i": i}}
                | {name: value(i) if callable(value) else value for name, value in given.items()}
                for i in range(jobs)
            ]
        )
        began = time.perf_counter()
        await self.connection.fetchval("select enqueue_jobs($1::jsonb)", items)
        return time.perf_counter() - began

    async def claim(self, queue: str = QUEUE, jobs: int = CLAIM) -> tuple[float, str]:
        """Claims jobs; returns also what is to be reported of them."""
        began = time.perf_counter()
        answer = await self.connection.fetchval(
            "select claim_jobs('bench', $1, $2, $3, 60, $4)", [queue], [JOB_TYPE], jobs, uuid4()
        )
        took = time.perf_counter() - began
        claimed = json.loads(answer)
        assert len(claimed) == jobs, f"{len(claimed)} of {jobs} claimed in {queue}"
        done = [
            {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "completed"}
            for job in claimed
        ]
        return took, json.dumps(done)

    async def report(self, done: str) -> float:
        """Reports claimed jobs as completed."""
        began = time.perf_counter()
        await self.connection.fetchval("select report_jobs($1::jsonb)", done)
        return time.perf_counter() - began

    async def cycles(self, rounds: int, queue: str = QUEUE) -> tuple[list[float], list[float]]:
        """Claims and reports; returns how long each claim and each report took."""
        claims, reports = [], []
        for _ in range(rounds):
            took, done = await self.claim(queue)
            claims.append(took)
            reports.append(await self.report(done))
        return claims, reports


# As many as the functions would count: the depth is kept in step.
FILL = """
with made as (
  insert into public.job_queue
    (queue, job_type, status, hold, blocked_on, scheduled_for, started_at, finished_at)
  select $1, $2, $3, $4, case when $4 = 'blocked' then 'model:' || i % 100 end,
    case when $4 = 'scheduled' then now() + interval '1 day' + i * interval '1 second' end,
    case when $3 = 'completed' then now() - i * interval '10 milliseconds' end,
    case when $3 = 'completed' then now() - i * interval '10 milliseconds' end
  from generate_series(1, $5::integer) i
)
insert into picture_queue.depth_change (queue, status, hold, n, at) values ($1, $3, $4, $5, now())
"""


async def fill(engine: Engine, scale: float, advance: Callable[[str], None]) -> None:
    """Puts the other jobs of the full table there."""
    for status, hold, jobs in (
        ("completed", None, 1_000_000),
        ("pending", "scheduled", 200_000),
        ("pending", "blocked", 100_000),
    ):
        count = int(jobs * scale)
        advance(f"{count:,} {hold or status} jobs")
        await engine.connection.execute(FILL, QUEUE, JOB_TYPE, status, hold, count)
    # What the blocked ones wait for.
    await engine.connection.execute("select pause_key('model:' || i) from generate_series(0, 99) i")
    advance("vacuum and analyze")
    await engine.connection.execute("vacuum analyze public.job_queue")


async def stock(engine: Engine, claims: int, queue: str = QUEUE, **given: Any) -> None:
    """Enqueues what so many claims take."""
    for _ in range(-(-claims * CLAIM // 10_000)):
        await engine.enqueue(min(claims * CLAIM, 10_000), queue, **given)


async def measure_held(
    engine: Engine, holder: Connection, size: Size, advance: Callable[[str], None]
) -> list[float]:
    """Times claims while a snapshot as old as the run keeps dead rows from being cleaned up."""
    transaction = holder.transaction(isolation="repeatable_read")
    await transaction.start()
    await holder.fetchval("select count(*) from picture_queue.setting")
    claims: list[float] = []
    began = time.monotonic()
    jobs = 0
    while (held := time.monotonic() - began) < size.held_seconds:
        await engine.enqueue(1000)
        claims += (await engine.cycles(10))[0]
        jobs += 1000
        advance(f"snapshot held {held:.0f} of {size.held_seconds:.0f} s, {jobs:,} jobs run")
    await transaction.rollback()
    # What it has come to at the end, when most is in the way.
    return claims[-max(len(claims) // 4, 10) :]


async def measure_limits(engine: Engine, size: Size) -> dict[str, dict[str, float]]:
    """Compares a plain queue with one under fair share and limits, in many short turns.

    A cost is the median of those of the turns: the machine is not as fast in each second.
    """
    users = [str(uuid4()) for _ in range(20)]
    found: dict[str, list[float]] = {"plain": [], "elsewhere": [], "limited": []}
    await engine.connection.fetchval("select set_queue('plain')")
    await engine.connection.fetchval("""select set_queue('limited', '{"fair_share": true}')""")
    rules = ("user:*", 1000), ("model:a", 10_000), ("queue:limited", 5000)

    async def turn(name: str, queue: str, **given: Any) -> None:
        await stock(engine, rounds, queue, **given)
        claims, reports = await engine.cycles(rounds, queue)
        found[name].append(statistics.median(map(sum, zip(claims, reports, strict=True))))

    def cost(name: str) -> dict[str, float]:
        pairs = zip(found["plain"], found[name], strict=True)
        return {
            "value": round(statistics.median(1 - plain / other for plain, other in pairs) * 100, 1)
        }

    rounds = 5
    for _ in range(max(size.rounds // rounds, 3)):
        await turn("plain", "plain", user_id=lambda i: users[i % 20])
        for key, running in rules:
            await engine.connection.fetchval("select set_limit($1, $2)", key, running)
        options = {"limit_keys": ["model:a"]}
        await turn("limited", "limited", user_id=lambda i: users[i % 20], options=options)
        for key in ("user:*", "model:a"):
            await engine.connection.fetchval("select delete_limit($1)", key)
        await turn("elsewhere", "plain", user_id=lambda i: users[i % 20])
        await engine.connection.fetchval("select delete_limit('queue:limited')")
    return {
        "cycle_plain": figures(found["plain"], "jobs/s", CLAIM),
        "cycle_limited": figures(found["limited"], "jobs/s", CLAIM),
        "limits_cost": cost("limited"),
        "elsewhere_cost": cost("elsewhere"),
    }


async def measure_schedules(engine: Engine) -> dict[str, float]:
    """Times what each worker asks once a second: is a schedule due? None is."""
    await engine.connection.execute(
        """select set_schedule('bench-' || i, jsonb_build_object(
          'every_seconds', 86400, 'job_type', 'bench', 'queue', 'bench'))
        from generate_series(1, 1000) i"""
    )
    times = []
    for _ in range(200):
        began = time.perf_counter()
        await engine.connection.fetchval("select picture_queue._run_schedules(100)")
        times.append(time.perf_counter() - began)
    await engine.connection.execute("select delete_schedule(s.name) from picture_queue.schedule s")
    return figures(times)


async def measure(
    engine: Engine, holder: Connection, size: Size, advance: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Runs every workload."""
    found: dict[str, dict[str, float]] = {}
    await stock(engine, 20)
    await engine.cycles(20)  # the connection has its plans

    advance("enqueue")
    found["enqueue_one"] = figures([await engine.enqueue(1) for _ in range(size.rounds * 3)])
    bulk = [await engine.enqueue(10_000) for _ in range(5)]
    found["enqueue_bulk"] = figures(bulk, "jobs/s", 10_000)

    advance("claim, else empty table")
    claims, reports = await engine.cycles(size.rounds)
    empty = statistics.median(claims)
    found["claim_empty"] = figures(claims)
    found["report"] = figures(reports)
    both = [a + b for a, b in zip(claims, reports, strict=True)]
    found["cycle"] = figures(both, "jobs/s", CLAIM)

    advance("fair share and limits")
    found |= await measure_limits(engine, size)
    advance("schedules")
    found["schedules_idle"] = await measure_schedules(engine)

    await fill(engine, size.scale, advance)
    advance("claim, full table")
    await stock(engine, size.rounds)
    await engine.cycles(5)
    claims, _ = await engine.cycles(size.rounds)
    full = statistics.median(claims)
    found["claim_full"] = figures(claims)
    found["full_ratio"] = {"value": round(full / empty, 2)}

    claims = await measure_held(engine, holder, size, advance)
    found["claim_held"] = figures(claims)
    found["held_ratio"] = {"value": round(statistics.median(claims) / full, 2)}
    return found


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection to the database."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def run(size: Size, *, durable: bool) -> dict[str, Any]:
    """Measures everything and returns the report."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        async with (
            LocalSupabase(durable=durable) as stack,
            connected(stack.db_url) as one,
            connected(stack.db_url) as holder,
        ):
            await one.execute("set statement_timeout = 0")

            def advance(text: str) -> None:
                progress.update(task, description=text)

            found = await measure(Engine(one), holder, size, advance)
            settings = await one.fetch(
                "select name, current_setting(name) as value from unnest($1::text[]) name",
                ["fsync", "synchronous_commit", "shared_buffers"],
            )
            version = stack.postgres
    return {
        "machine": {
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "load_before": round(os.getloadavg()[0], 2),
            "system": platform.platform(),
            "python": platform.python_version(),
            "postgres": version,
            **{row["name"]: row["value"] for row in settings},
        },
        "size": {"rounds": size.rounds, "scale": size.scale, "held_seconds": size.held_seconds},
        "systems": {SYSTEMS[0]: found},
    }


def reached(name: str, found: dict[str, float]) -> bool:
    """Whether a figure is within its goal."""
    goal = WORKLOADS[name][2]
    value = found.get("value", found.get("p50", 0))
    return goal is None or (value <= goal[1] if goal[0] == "≤" else value >= goal[1])


def show(report: dict[str, Any]) -> None:
    """Prints the report for people."""
    console = Console()
    for system, workloads in report["systems"].items():
        table = Table(title=system, title_justify="left")
        for heading in ("what", "median", "95 %", "", "goal"):
            table.add_column(heading, justify="left" if heading in ("what", "") else "right")
        for name, (what, unit, goal) in WORKLOADS.items():
            found = workloads[name]
            style = "" if goal is None else "green" if reached(name, found) else "bold red"
            median = f"{found.get('value', found.get('p50')):,}"
            table.add_row(
                what,
                f"[{style}]{median}[/]" if style else median,
                f"{found['p95']:,}" if "p95" in found else "",
                unit,
                f"{goal[0]} {goal[1]:,g}" if goal else "",
            )
        console.print(table)
    machine, size = report["machine"], report["size"]
    console.print(
        f"{size['rounds']} rounds, {size['scale']:.0%} of 1.3 million jobs, snapshot held "
        f"{size['held_seconds']:g} s; {machine['cores']} cores, {machine['memory_gb']} GB, load "
        f"{machine['load_before']}, Postgres {machine['postgres']}, fsync {machine['fsync']}",
        style="dim",
    )


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="a hundredth of it, to see it runs")
    parser.add_argument("--held", type=float, help="seconds an old snapshot is held")
    parser.add_argument("--unsafe", action="store_true", help="fsync off")
    arguments = parser.parse_args()
    size = Size(10, 0.01, 3) if arguments.quick else Size(60, 1, 120)
    if arguments.held:
        size = Size(size.rounds, size.scale, arguments.held)
    report = asyncio.run(run(size, durable=not arguments.unsafe))
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
