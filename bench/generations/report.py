"""The report of a run: its lines with their bounds, a table, and Markdown."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 110  # characters in a line if the output is not a terminal


@dataclass(frozen=True)
class Line:
    """A line of the report.

    Args:
        title: The measured quantity.
        unit: The unit of the value and of the bound.
        bound: The highest value that passes; None: the value is only shown.
    """

    title: str
    unit: str
    bound: float | None = None


#: The lines in the order of the report. The names of the values are those in the JSON.
LINES = {
    "start_p50": Line("start_generation with money and rules, p50", "ms", 10),
    "start_p95": Line("start_generation with money and rules, p95", "ms", 40),
    "flight_missing": Line("predictions that were not in flight at the same time", "of 2,000", 0),
    "flight_rss": Line("worker's memory with 2,000 predictions in flight, peak", "MB", 250),
    "flight_stall": Line("longest stall of its event loop", "ms", 50),
    # The file is mapped once while it is checked. A growth of 2 would mean that it is held twice.
    "large_growth": Line("growth of the worker's memory for a large output", "of its size", 1.5),
    "throughput": Line("1,000 generations of 2 s", "times the ideal time", 1.3),
    "pick_up_p50": Line("enqueue → handler starts, over HTTP, p50", "ms", 40),
    "event_p50": Line("state changes → event at a subscriber, p50", "ms", 40),
    "idle_cpu": Line("idle worker, share of a core", "%", 2),
    "idle_rss": Line("idle worker, resident memory", "MB", 100),
}

NOTE = (
    "The ideal time of 1,000 generations is 1,000 / concurrency x 2 s: a worker without webhooks "
    "polls such a short prediction in its slot. The CPU time of the longest stall does not contain "
    "the time in which other processes had the CPU."
)


def is_met(name: str, value: float) -> bool:
    """Return whether a value keeps its bound."""
    bound = LINES[name].bound
    return bound is None or value <= bound


def is_passed(report: dict[str, Any]) -> bool:
    """Return whether all measurements ended and all values keep their bounds."""
    values = report["values"].items()
    return not report["errors"] and all(is_met(name, value) for name, value in values)


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    table = Table(title="Generations", title_justify="left")
    for heading in ("figure", "measured", "bound", "unit", ""):
        table.add_column(heading, justify="right" if heading in ("measured", "bound") else "left")
    for name, value in report["values"].items():
        line, passed = LINES[name], is_met(name, value)
        style = "green" if passed else "bold red"
        bound = "" if line.bound is None else f"≤ {line.bound:g}"
        mark = "pass" if passed else "FAIL"
        table.add_row(line.title, f"[{style}]{value:g}[/]", bound, line.unit, f"[{style}]{mark}[/]")
    console.print(table)
    for text in _footer(report):
        console.print(text, style="dim", markup=False, highlight=False)


def render_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = ["# Generations", "", "Written by `make bench-generations`.", ""]
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()]
    lines += ["", "| figure | measured | bound | unit | |", "|---|---|---|---|---|"]
    for name, value in report["values"].items():
        line = LINES[name]
        bound = "" if line.bound is None else f"≤ {line.bound:g}"
        mark = "pass" if is_met(name, value) else "**FAIL**"
        lines.append(f"| {line.title} | {value:g} | {bound} | {line.unit} | {mark} |")
    lines += ["", NOTE, "", "## Details", ""]
    lines += [f"- {text}" for text in _details(report)]
    return "\n".join([*lines, ""])


def _footer(report: dict[str, Any]) -> list[str]:
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    return [*_details(report), NOTE, machine]


def _details(report: dict[str, Any]) -> list[str]:
    details = report["details"]
    texts = [f"{name} failed: {error}" for name, error in report["errors"].items()]
    for name, title in (("flight", "2,000 in flight"), ("throughput", "1,000 generations")):
        if name not in details:
            continue
        load = details[name]
        parts = ", ".join(f"{part} {ms:.1f}" for part, ms in load["cpu_ms"].items())
        texts.append(
            f"{title}: {load['seconds']:.1f} s with concurrency {load['concurrency']}, "
            f"{load['in_flight']} predictions at the same time, {load['stalls']} stalls of over "
            f"50 ms, the longest with {load['stall_cpu_ms']:.0f} ms of CPU time; "
            f"CPU ms a generation: {parts}"
        )
    if "large_mb" in details:
        texts.append(f"The large output has {details['large_mb']:.1f} MB.")
    return texts
