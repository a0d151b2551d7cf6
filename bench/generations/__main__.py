"""``python bench/generations [--only NAMES] [--json]``.

The program starts an embedded Supabase with durable commits, a worker and the Replicate simulator
in separate processes. It exits with 1 if a measurement fails or a figure misses its bound. A full
run writes its report to docs/benchmarks, any other to .bench.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from generations.latency import (
    measure_event,
    measure_idle,
    measure_pick_up,
    measure_start_generation,
)
from generations.load import IncompleteRun, Load, generate, generate_large
from generations.report import is_passed, render_markdown, show
from generations.stack import run_programs
from picture_queue import AsyncPictureQueue
from picture_queue.errors import PictureQueueError
from picture_queue.local.stack import LocalSupabase

_ROOT = Path(__file__).resolve().parents[2]
_ROUNDS = 200  # calls of each latency
_IN_FLIGHT = 2000
_FLIGHT_CONCURRENCY = 1000  # the most that a worker permits
# The predictions of the first jobs must run until the last job has created its own.
_FLIGHT_SECONDS = 150.0
_FLIGHT_TIMEOUT = 900.0
_GENERATIONS = 1000
_CONCURRENCY = 10  # the default of a worker
_SECONDS = 2.0
_MEGABYTES = 20

Report = dict[str, Any]


def _milliseconds(times: list[float], share: float) -> float:
    """Return a percentile of measured seconds, in milliseconds."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


async def measure_latencies(stack: LocalSupabase, pq: AsyncPictureQueue, report: Report) -> None:
    """Measure single calls and an idle worker."""
    values = report["values"]
    async with run_programs(stack, pq, concurrency=_CONCURRENCY, seconds=_SECONDS) as programs:
        pick_up = await measure_pick_up(pq, _ROUNDS)
        events = await measure_event(pq, stack, _ROUNDS)
        values["idle_cpu"], values["idle_rss"] = await measure_idle(programs)
    # The worker is gone, so that it does not run the generations meanwhile.
    starts = await measure_start_generation(pq, _ROUNDS)
    values["start_p50"] = statistics.median(starts) * 1000
    values["start_p95"] = _milliseconds(starts, 0.95)
    values["pick_up_p50"] = statistics.median(pick_up) * 1000
    values["event_p50"] = statistics.median(events) * 1000


async def measure_flight(stack: LocalSupabase, pq: AsyncPictureQueue, report: Report) -> None:
    """Measure the worker with 2,000 predictions in flight, up to the last stored picture."""
    async with run_programs(
        stack, pq, concurrency=_FLIGHT_CONCURRENCY, seconds=_FLIGHT_SECONDS
    ) as programs:
        load = await generate(pq, stack.db_url, programs, _IN_FLIGHT, _FLIGHT_TIMEOUT)
    report["values"] |= {
        "flight_missing": max(0, _IN_FLIGHT - load.in_flight),
        "flight_rss": load.peak_mb,
        "flight_stall": load.stall_ms,
    }
    report["details"]["flight"] = _details(load, _FLIGHT_CONCURRENCY)


async def measure_large(stack: LocalSupabase, pq: AsyncPictureQueue, report: Report) -> None:
    """Measure the memory of a worker that stores a picture of 20 MB."""
    async with run_programs(
        stack, pq, concurrency=_CONCURRENCY, seconds=_SECONDS, megabytes=_MEGABYTES
    ) as programs:
        megabytes, growth = await generate_large(pq, programs)
    report["values"]["large_growth"] = growth / megabytes
    report["details"]["large_mb"] = megabytes


async def measure_throughput(stack: LocalSupabase, pq: AsyncPictureQueue, report: Report) -> None:
    """Measure 1,000 generations from the first start to the last stored picture."""
    ideal = _GENERATIONS / _CONCURRENCY * _SECONDS
    async with run_programs(stack, pq, concurrency=_CONCURRENCY, seconds=_SECONDS) as programs:
        load = await generate(pq, stack.db_url, programs, _GENERATIONS, 5 * ideal)
    report["values"]["throughput"] = load.seconds / ideal
    report["details"]["throughput"] = _details(load, _CONCURRENCY)


def _details(load: Load, concurrency: int) -> dict[str, Any]:
    return {"concurrency": concurrency, **asdict(load)}


MEASUREMENTS: dict[str, Callable[[LocalSupabase, AsyncPictureQueue, Report], Awaitable[None]]] = {
    "latencies": measure_latencies,
    "flight": measure_flight,
    "large": measure_large,
    "throughput": measure_throughput,
}


async def measure(names: list[str]) -> Report:
    """Run the measurements, each on a new stack, and return the report."""
    report: Report = {
        "machine": {
            "cores": os.cpu_count(),
            "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load average before": [round(load, 2) for load in os.getloadavg()],
        },
        "values": {},
        "details": {},
        "errors": {},
    }
    for name in names:
        print(f"measuring: {name}", file=sys.stderr)
        async with (
            LocalSupabase(durable=True) as stack,
            AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq,
        ):
            # Without the paths of the programs, which differ for each machine.
            report["machine"]["postgres"] = stack.postgres.partition(" ")[0]
            report["machine"]["postgrest"] = stack.postgrest.partition(" ")[0]
            try:
                await MEASUREMENTS[name](stack, pq, report)
            except (IncompleteRun, PictureQueueError) as error:
                report["errors"][name] = str(error)
    report["machine"]["load average after"] = [round(load, 2) for load in os.getloadavg()]
    report["values"] = {name: round(value, 2) for name, value in report["values"].items()}
    return report


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", help=f"some of {','.join(MEASUREMENTS)}, separated by commas")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(MEASUREMENTS)
    if unknown := set(names) - set(MEASUREMENTS):
        parser.error(f"--only has {', '.join(sorted(unknown))}; choose {', '.join(MEASUREMENTS)}")
    report = asyncio.run(measure(names))
    directory = _ROOT / ".bench" if arguments.only else _ROOT / "docs" / "benchmarks"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "generations.json").write_text(json.dumps(report, indent=1) + "\n")
    (directory / "generations.md").write_text(render_markdown(report))
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)
    return 0 if is_passed(report) else 1


if __name__ == "__main__":
    sys.exit(main())
