"""Measure latencies and the cost of an idle worker, on an embedded Supabase.

``python bench/smoke.py [--json] [--rounds N]``. The worker runs in a separate process. A number
that misses its target is shown in red; the exit code stays 0.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from picture_queue import AsyncPictureQueue
from picture_queue.local.stack import LocalSupabase

ROOT = Path(__file__).resolve().parent.parent
IDLE_SECONDS = 10  # The duration of the measurement of an idle worker.
PAUSE = 0.05  # Seconds between two rounds, so that the worker is idle again.
JOIN_PAUSE = 0.05  # Seconds until a subscription is active and the first read is done.

# For each workload: its description, its unit, and the targets of its figures.
TARGETS: dict[str, tuple[str, str, dict[str, float]]] = {
    "start_generation": ("start_generation → answer", "ms", {"p50": 15, "p95": 40}),
    "pick_up": ("enqueue → handler starts, over HTTP", "ms", {"p50": 40}),
    "event": ("state changes → event at a subscriber", "ms", {"p50": 40}),
    "idle_cpu": ("idle worker, share of a core", "%", {"value": 2}),
    "idle_rss": ("idle worker, resident memory", "MB", {"value": 100}),
}


def figures(seconds: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and maximum in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50": round(statistics.median(ordered) * 1000, 2),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1000, 2),
        "max": round(ordered[-1] * 1000, 2),
    }


@asynccontextmanager
async def running_worker(stack: LocalSupabase) -> AsyncIterator[psutil.Process]:
    """Run the worker of this benchmark in a separate process."""
    environment = {
        **os.environ,
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_KEY": stack.service_role_key,
        "PYTHONPATH": str(ROOT / "bench"),
    }
    process = subprocess.Popen(  # noqa: ASYNC220 - started once, before anything is measured
        [sys.executable, "-m", "picture_queue_cli", "worker", "--app", "smoke_worker:worker"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


async def measure_start_generation(pq: AsyncPictureQueue, rounds: int) -> list[float]:
    """Time `start_generation` from the call to the answer."""
    times = []
    for _ in track(range(rounds), "start_generation", console=Console(stderr=True)):
        began = time.perf_counter()
        await pq.generations.start("a lighthouse at dusk")
        times.append(time.perf_counter() - began)
    return times


async def measure_pick_up(pq: AsyncPictureQueue, rounds: int) -> list[float]:
    """Time from before the enqueue call to the first line of the handler in the worker.

    The handler returns the time at which it started.
    """
    times = []
    for _ in track(range(rounds), "pick-up", console=Console(stderr=True)):
        await asyncio.sleep(PAUSE)
        began = time.time()
        job = await pq.jobs.enqueue("bench-pick-up")
        started = await pq.jobs.result(job.id, timeout=30)
        times.append(started - began)
    return times


async def measure_event(pq: AsyncPictureQueue, stack: LocalSupabase, rounds: int) -> list[float]:
    """Time from before the statement that cancels a job to the arrival of the event.

    Only events that came over the socket are timed.
    """
    connection = await asyncpg.connect(stack.db_url, timeout=10)
    times = []
    for _ in track(range(rounds), "events", console=Console(stderr=True)):
        job = await pq.jobs.enqueue("bench-without-handler")
        events = aiter(pq.jobs.watch(job.id, timeout=30))
        await anext(events)
        next_event = asyncio.ensure_future(anext(events))
        await asyncio.sleep(JOIN_PAUSE)
        began = time.perf_counter()
        await connection.execute("select cancel_job($1)", job.id)
        event = await next_event
        if event.source == "socket":
            times.append(time.perf_counter() - began)
    await connection.close(timeout=10)
    return times


async def measure_idle(worker: psutil.Process) -> tuple[float, float]:
    """Return the idle worker's CPU use in percent of a core, and its memory in MB."""
    before = worker.cpu_times()
    await asyncio.sleep(IDLE_SECONDS)
    after = worker.cpu_times()
    busy = (after.user + after.system) - (before.user + before.system)
    return round(busy / IDLE_SECONDS * 100, 2), round(worker.memory_info().rss / 1e6, 1)


async def run(rounds: int) -> dict[str, Any]:
    """Measure everything and return the report."""
    async with (
        LocalSupabase() as stack,
        AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq,
        running_worker(stack) as worker,
    ):
        # Wait until the worker runs and has connected.
        first = await pq.jobs.enqueue("bench-pick-up")
        await pq.jobs.result(first.id, timeout=60)
        pick_up = await measure_pick_up(pq, rounds)
        events = await measure_event(pq, stack, rounds)
        cpu, rss = await measure_idle(worker)
        starts = await measure_start_generation(pq, rounds)
    return {
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "postgres": stack.postgres,
            "postgrest": stack.postgrest,
        },
        "rounds": rounds,
        "workloads": {
            "start_generation": figures(starts),
            "pick_up": figures(pick_up),
            "event": figures(events) | {"over_socket": len(events)},
            "idle_cpu": {"value": cpu},
            "idle_rss": {"value": rss},
        },
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    table = Table(title="picture-queue, latencies and idle worker", title_justify="left")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    for name, (description, unit, targets) in TARGETS.items():
        values = report["workloads"][name]
        is_met = all(values[figure] <= target for figure, target in targets.items())
        measured = "  ".join(
            f"{_label(figure)}{values[figure]}"
            for figure in ("p50", "p95", "value")
            if figure in values
        )
        bounds = "  ".join(f"{_label(figure)}≤ {bound:g}" for figure, bound in targets.items())
        style = "green" if is_met else "bold red"
        table.add_row(description, f"[{style}]{measured} {unit}[/]", f"{bounds} {unit}")
    console = Console()
    console.print(table)
    machine = report["machine"]
    console.print(
        f"{report['rounds']} rounds, {machine['cores']} cores, Python {machine['python']}, "
        f"Postgres {machine['postgres']}",
        style="dim",
    )


def _label(figure: str) -> str:
    """Return the name of a figure as a prefix; the only figure of a workload needs no name."""
    return "" if figure == "value" else f"{figure} "


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    report = asyncio.run(run(arguments.rounds))
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
