"""``python bench/engine [--json] [--quick] [--baseline REF] [--postgres N] [--only a,b] …``.

The program starts its own Postgres, by default of the version that Supabase runs. Commits are
durable (fsync on) unless ``--unsafe`` is given. With ``--baseline`` the SQL of that git ref gets a
second database on the same server. The two databases are measured in turns, and each turn gives one
ratio new/old.
Absolute numbers differ from machine to machine. The report marks a number outside its bound. The
run fails only if a workload cannot be measured.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compare.server import Server, run_server
from postgres_versions import PLATFORM, find_programs

from engine.calls import CYCLE, ENQUEUE, LARGE_TABLE, OTHER_TYPES
from engine.database import create_databases
from engine.dependents import DEPENDENTS
from engine.held_snapshot import HELD, HELD_LIMITED
from engine.limits import LIMITS
from engine.maintenance import IDLE, RUNNING, SCHEDULES
from engine.report import show, summarize
from engine.workload import QUICK, Size, Workload, measure_in_turns

#: The workloads in their order. Workloads that leave many rows behind come last.
WORKLOADS = (
    IDLE,
    ENQUEUE,
    CYCLE,
    LIMITS,
    SCHEDULES,
    RUNNING,
    DEPENDENTS,
    HELD,
    HELD_LIMITED,
    OTHER_TYPES,
    LARGE_TABLE,
)


async def measure_all(
    workloads: list[Workload], server: Server, size: Size, baseline: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Measure workloads; return the figures, and the errors of the workloads that failed."""
    databases = await create_databases(server, baseline)
    figures: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for workload in workloads:
        began = time.monotonic()
        try:
            figures |= summarize(workload, await measure_in_turns(workload, databases, size))
        except Exception as error:  # An error in one workload must not end a run of many minutes.
            traceback.print_exc()
            errors[workload.name] = f"{type(error).__name__}: {error}"
        print(f"{time.monotonic() - began:6.1f} s  {workload.name}", file=sys.stderr, flush=True)
    return figures, errors


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the report."""
    size = QUICK if args.quick else Size()
    if args.held:
        turns = max(round(args.held / size.steady_seconds), 2)
        size = replace(
            size, steady_turns=turns, limited_steady_turns=turns, steady_seconds=args.held / turns
        )
    selected = [workload for workload in WORKLOADS if not args.only or workload.name in args.only]
    load = round(os.getloadavg()[0], 2)
    async with run_server(find_programs(args.postgres), durable=not args.unsafe) as server:
        figures, errors = await measure_all(selected, server, size, args.baseline)
        settings = await server.settings(durable=not args.unsafe)
    return {
        "machine": {
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "load_before": load,
            "system": platform.platform(),
            "python": platform.python_version(),
            "postgres": settings["server_version"],
            **settings,
        },
        "baseline": args.baseline,
        "size": asdict(size),
        "figures": figures,
        "errors": errors,
    }


def main() -> int:
    """Run the benchmark from the command line."""
    names = [workload.name for workload in WORKLOADS]

    def parse_names(text: str) -> list[str]:
        parsed = text.split(",")
        if unknown := set(parsed) - set(names):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {names}")
        return parsed

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--quick", action="store_true", help="use a hundredth of the jobs, as a smoke test"
    )
    parser.add_argument("--baseline", metavar="REF", help="compare with the SQL of a git ref")
    parser.add_argument("--postgres", type=int, default=PLATFORM, help="major version")
    parser.add_argument("--only", type=parse_names, help=f"some of {','.join(names)}")
    parser.add_argument("--held", type=float, help="seconds of work under a held snapshot")
    parser.add_argument("--unsafe", action="store_true", help="turn fsync off")
    args = parser.parse_args()
    report = asyncio.run(run(args))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 1 if report["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
