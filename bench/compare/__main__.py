"""``python bench/compare [--quick] [--rounds N] [--postgres N] [--systems a,b] [--workloads x,y]``.

Starts a server of its own, on the version of Postgres that Supabase runs unless told otherwise.
Installs the peers beside it, measures round by round (each system in each round, so that a slow
minute of the machine is everybody's), and writes the report: to docs/benchmarks after a full run on
that version, to .bench after another.
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

from postgres_versions import PLATFORM, programs

from compare.measure import Figures
from compare.report import chart, markdown, summary
from compare.server import API_DATABASE, Server, running
from compare.systems import BENCH, INSTALLED, System, systems
from compare.workloads import EVERYBODY, QUICK, WORKLOADS, Context, Size, Workload

Rounds = dict[tuple[str, str], list[Figures]]


async def prepare(server: Server, system: System) -> dict[str, object]:
    """Makes the template of a system's databases; returns what it says of itself."""
    said = system.describe()
    template = API_DATABASE if system.over_http else f"template_{system.name}"
    if not system.over_http:
        await (server.make_ours(template) if system.ours else server.make(template))
    user = "postgres" if system.ours else "supabase_admin"
    process = await asyncio.create_subprocess_exec(
        *system.command, "setup", f"--dsn={server.dsn(template, user)}", env=system.environ()
    )
    if await process.wait():
        raise SystemExit(f"{system.name} could not be set up")
    return said


def plan(
    chosen: list[System], workloads: list[Workload], rounds: int
) -> list[tuple[Workload, System]]:
    """Returns what is measured, in order: round by round, all systems of a workload in a row."""
    return [
        (workload, system)
        for number in range(rounds)
        for workload in workloads
        if number < workload.rounds
        for _ in range(workload.repeats)
        for system in chosen
        if workload.name in (system.workloads or EVERYBODY)
        and (not workload.only or system.name in workload.only)
    ]


async def compare(args: argparse.Namespace) -> int:
    """Measures and reports."""
    size = QUICK if args.quick else Size()
    names = args.systems.split(",") if args.systems else None
    chosen = [system for system in systems() if names is None or system.name in names]
    wanted = args.workloads.split(",") if args.workloads else None
    workloads = [
        workload
        for workload in WORKLOADS
        if (wanted is None or workload.name in wanted)
        and (size.many or workload.name != "noop_long")
    ]
    found: Rounds = {}
    async with running(programs(args.postgres)) as server:
        settings = await server.settings()
        chosen = [
            replace(system, environment={"PEER_API": server.api}) if system.over_http else system
            for system in chosen
        ]
        steps = plan(chosen, workloads, args.rounds)
        said = {system.name: await prepare(server, system) for system in chosen}
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
                at = Context(server, system, str(said[system.name]["unfinished"]), size)
                figures = await workload.measure(at)
                turns = figures if isinstance(figures, list) else [figures]
                found.setdefault((workload.name, system.name), []).extend(turns)
                progress.advance(task)
                if not sys.stderr.isatty():
                    elapsed = f"{time.monotonic() - began:4.0f} s"
                    print(elapsed, workload.name, system.name, figures, file=sys.stderr)
            await server.settings()  # they were in force to the end
    machine = {
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "rounds": args.rounds,
        **settings,
    }
    results = summary(found, said)
    full = not (args.quick or args.systems or args.workloads) and args.postgres == PLATFORM
    place = BENCH.parent / "docs" / "benchmarks" if full else INSTALLED
    place.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"machine": machine, "workloads": results}, indent=1)
    text = markdown(machine, results)
    (place / "latest.json").write_text(data + "\n")
    (place / "latest.md").write_text(text)
    (place / "latest.svg").write_text(chart(results))
    if args.json:
        print(data)
    else:
        Console().print(Markdown(text))
    print(f"Written to {place.relative_to(BENCH.parent)}", file=sys.stderr)
    return 0


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, ValueError):
        return platform.machine()


def main() -> int:
    """Reads the command line."""
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
