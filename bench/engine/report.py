"""The report of a run: JSON for programs, a table for people."""

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.workload import Figure, Turns, Workload, percentile

_DIGITS = 3
_WIDTH = 130  # The number of characters per line if the output is not a terminal.


def _summary(figure: Figure, turns: list[list[float]]) -> dict[str, Any]:
    values = [value for turn in turns for value in turn]
    median = statistics.median(values)
    summary: dict[str, Any] = {"median": round(median, _DIGITS)}
    if len(values) > 1:
        # 95 % of the calls were at least this fast. For a rate, this is the 5th percentile.
        summary["p95"] = round(percentile(values, 0.05 if figure.is_rate else 0.95), _DIGITS)
    if figure.bound:
        sign, bound = figure.bound
        summary["met"] = median <= bound if sign == "≤" else median >= bound
    return summary


def _ratio(new: list[list[float]], old: list[list[float]]) -> dict[str, Any] | None:
    medians = [
        (statistics.median(new_values), statistics.median(old_values))
        for new_values, old_values in zip(new, old, strict=True)
    ]
    ratios = [new_median / old_median for new_median, old_median in medians if old_median]
    if not ratios:
        return None
    return {
        "min": round(min(ratios), _DIGITS),
        "median": round(statistics.median(ratios), _DIGITS),
        "max": round(max(ratios), _DIGITS),
        "turns": len(ratios),
    }


def summarize(workload: Workload, turns: Turns) -> dict[str, Any]:
    """Return a summary of each figure for each database, and the ratio of new to old.

    Args:
        workload: The workload.
        turns: The samples of each turn, by the name of the database.
    """
    results: dict[str, Any] = {}
    for name, figure in workload.figures.items():
        values = {
            database: [turn[name] for turn in database_turns if name in turn]
            for database, database_turns in turns.items()
        }
        item: dict[str, Any] = {"what": figure.title, "unit": figure.unit}
        if figure.bound:
            item["bound"] = f"{figure.bound[0]} {figure.bound[1]:g}"
        item |= {
            database: _summary(figure, turn_values) for database, turn_values in values.items()
        }
        # A ratio of two percentages would be misleading.
        if "old" in values and figure.unit != "%":
            item["ratio"] = _ratio(values["new"], values["old"])
        results[name] = item
    return results


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def _cells(item: dict[str, Any], database: str) -> tuple[str, str]:
    summary = item.get(database)
    if summary is None:
        return "", ""
    style = {None: "", True: "green", False: "bold red"}[summary.get("met")]
    median = _format_number(summary["median"])
    return (
        f"[{style}]{median}[/]" if style else median,
        _format_number(summary["p95"]) if "p95" in summary else "",
    )


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    machine, baseline = report["machine"], report["baseline"]
    table = Table(title=f"SQL functions on Postgres {machine['postgres']}", title_justify="left")
    columns = ["figure", "median", "p95"]
    if baseline:
        columns += ["old median", "old p95", "new/old", "min"]
    for heading in [*columns, "", "bound"]:
        is_text = heading in ("figure", "")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for item in report["figures"].values():
        cells = [item["what"], *_cells(item, "new")]
        if baseline:
            ratio = item.get("ratio") or {}
            cells += _cells(item, "old")
            cells += [_format_number(ratio[name]) if ratio else "" for name in ("median", "min")]
        table.add_row(*cells, item["unit"], item.get("bound", ""))
    console.print(table)
    for name, error in report["errors"].items():
        console.print(f"{name} failed: {error}", style="bold red", markup=False)
    console.print(
        f"{machine['cores']} cores, {machine['memory_gb']} GB, load {machine['load_before']}, "
        f"fsync {machine['fsync']}; {report['size']}" + (f"; old: {baseline}" if baseline else ""),
        style="dim",
        markup=False,
    )
