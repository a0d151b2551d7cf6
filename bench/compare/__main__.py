"""``python bench/compare [--quick] [--rounds N] [--postgres N] [--systems a,b] [--workloads x,y]``.

The program starts its own Postgres, by default of the version that Supabase runs, and installs the
other queues. Every round measures every system, so that a slow minute of the machine affects all of
them. A full run on the default version writes its report to docs/benchmarks, any other to .bench.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from postgres_versions import PLATFORM, find_programs

from compare.measure import Figures
from compare.report import render_chart, render_markdown, summarize_rounds
from compare.server import API_DATABASE, Server, run_server
from compare.systems import BENCH, INSTALLED, System, systems
from compare.workloads import ALL_WORKLOADS, QUICK, WORKLOADS, Context, Size, Workload

#: The figures of each measurement, by the names of the workload and the system.
Rounds = dict[tuple[str, str], list[Figures]]


async def prepare(server: Server, system: System) -> dict[str, object]:
    """Create the template database of a system, and return the system's description."""
    description = system.describe()
    template = API_DATABASE if system.over_http else f"template_{system.name}"
    if not system.over_http:
        await (server.create_ours(template) if system.ours else server.create(template))
    environment = system.environ(PEER_DSN=server.dsn(template, "postgres"))
    process = await asyncio.create_subprocess_exec(*system.command, "setup", env=environment)
    if await process.wait():
        raise SystemExit(f"{system.name} could not be set up")
    return description


def plan(
    selected: list[System], workloads: list[Workload], rounds: int
) -> list[tuple[Workload, System]]:
    """Return the measurements in order: by round, then by workload, then by system."""
    return [
        (workload, system)
        for number in range(rounds)
        for workload in workloads
        if number < workload.rounds
        for _ in range(workload.repeats)
        for system in selected
        if workload.name in (system.workloads or ALL_WORKLOADS)
        and (not workload.only or system.name in workload.only)
    ]


async def compare(args: argparse.Namespace) -> int:
    """Run the measurements and write the report."""
    size = QUICK if args.quick else Size()
    system_names = args.systems.split(",") if args.systems else None
    selected = [
        system for system in systems() if system_names is None or system.name in system_names
    ]
    workload_names = args.workloads.split(",") if args.workloads else None
    workloads = [
        workload
        for workload in WORKLOADS
        if (workload_names is None or workload.name in workload_names)
        and (size.many or workload.name != "noop_long")  # --quick leaves out the long run
    ]
    measured: Rounds = {}
    async with run_server(find_programs(args.postgres)) as server:
        settings = await server.settings()
        selected = [
            replace(system, environment={"PEER_API": server.api}) if system.over_http else system
            for system in selected
        ]
        steps = plan(selected, workloads, args.rounds)
        descriptions = {system.name: await prepare(server, system) for system in selected}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=len(steps))
            began = time.monotonic()
            for workload, system in steps:
                progress.update(task, description=f"{workload.name} {system.name}")
                context = Context(
                    server, system, str(descriptions[system.name]["unfinished"]), size
                )
                figures = await workload.measure(context)
                turns = figures if isinstance(figures, list) else [figures]
                measured.setdefault((workload.name, system.name), []).extend(turns)
                progress.advance(task)
                if not sys.stderr.isatty():
                    elapsed = f"{time.monotonic() - began:4.0f} s"
                    print(elapsed, workload.name, system.name, figures, file=sys.stderr)
            await server.settings()  # This raises an error if commits are no longer durable.
    machine = {
        "cpu": f"{os.cpu_count()} x {_cpu_name()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "rounds": args.rounds,
        **settings,
    }
    results = summarize_rounds(measured, descriptions)
    is_full = not (args.quick or args.systems or args.workloads) and args.postgres == PLATFORM
    directory = BENCH.parent / "docs" / "benchmarks" if is_full else INSTALLED
    directory.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"machine": machine, "workloads": results}, indent=1)
    text = render_markdown(machine, results)
    (directory / "latest.json").write_text(data + "\n")
    (directory / "latest.md").write_text(text)
    (directory / "latest.svg").write_text(render_chart(results))
    if args.json:
        print(data)
    else:
        Console().print(Markdown(text))
    print(f"Written to {directory.relative_to(BENCH.parent)}", file=sys.stderr)
    return 0


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, ValueError):
        return platform.machine()


def main() -> int:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", type=int, default=PLATFORM, help="major version")
    parser.add_argument("--systems")
    parser.add_argument("--workloads")
    return asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
