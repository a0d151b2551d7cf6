"""The report of a run: JSON, tables in Markdown, and a chart."""

import statistics
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from compare.workloads import WORKLOADS

#: The summary of each figure, by the name of the figure (see `Target`) and of the system.
Results = dict[str, dict[str, dict[str, Any]]]

OURS = "picture_queue"
HTTP = "picture_queue_http"
EVENTS = "picture_queue_events"


@dataclass(frozen=True)
class Target:
    """A bound for one of our figures, or for its ratio to the figure of another system.

    Args:
        figure: The name of the figure: its workload for a rate, otherwise ``workload.figure``.
        base_system: The system with whose figure the ratio is formed, which may be picture-queue
            itself; None: the bounds apply to the figure.
        minimum: The lower bound of the ratio or figure.
        maximum: The upper bound of the ratio or figure.
        hard: True if the target must be met.
        base_figure: The figure of ``base_system``; None: the figure of the same name.
        system: The variant of picture-queue: direct, over HTTP, or with events.
    """

    figure: str
    base_system: str | None
    minimum: float | None = None
    maximum: float | None = None
    hard: bool = False
    base_figure: str | None = None
    system: str = OURS


TARGETS = (
    Target("enqueue_one", "pgqueuer", 1.2, hard=True),
    Target("enqueue_one", "raw", 0.7, hard=True),
    Target("enqueue_bulk", "pgqueuer", 0.9, hard=True),
    Target("enqueue_bulk", "graphile_worker", 0.9, hard=True),
    Target("noop_tuned", "pgqueuer", 1.35, hard=True),
    Target("noop_tuned", "graphile_worker", 1.0),
    Target("noop_long", "pgqueuer", 1.0, hard=True),
    Target("noop_two", "pgqueuer", 1.3),
    Target("latency_idle.p50", "pgqueuer", maximum=1.0, hard=True),
    Target("latency_idle.p95", "pgqueuer", maximum=1.0, hard=True),
    Target("latency_500.p95", None, maximum=10),
    Target("growth.before", OURS, 0.9, hard=True, base_figure="growth.empty"),
    Target("growth.after", OURS, 0.9, hard=True, base_figure="growth.empty"),
    Target("held_snapshot.p95", None, maximum=50),
    Target("noop_tuned.rss", None, maximum=60),
    Target("idle.queries", None, maximum=2),
    Target("idle.core", None, maximum=1),
    Target("noop_tuned", OURS, 0.5, system=EVENTS),
    Target("noop_tuned", "pgqueuer", 1.0, base_figure="noop_default", system=HTTP),
    Target("enqueue_one", "procrastinate", 0.5, system=HTTP),
    Target("enqueue_eight", "procrastinate", 1.0, base_figure="enqueue_one", system=HTTP),
    Target("latency_idle.p50", None, maximum=15, system=HTTP),
)

#: Jobs a second in an earlier comparison on another machine (2 cores, PostgreSQL 15). ``raw`` is a
#: loop of plain SQL without a queue. Divide the rate of a peer by the rate of ``raw``: if this
#: ratio is much lower in a new run than here, the peer may be configured badly.
EARLIER = {
    "enqueue_one": {
        "raw": 3030, "pgqueuer": 2396, "graphile_worker": 1307, "pg_boss": 1098,
        "procrastinate": 1002, "chancy": 984,
    },
    "enqueue_bulk": {
        "raw": 247_000, "graphile_worker": 64_352, "pgqueuer": 49_898, "pg_boss": 44_673,
        "procrastinate": 15_280, "chancy": 3560,
    },
    "noop_tuned": {
        "raw": 51_000, "pg_boss": 25_709, "graphile_worker": 25_167, "pgqueuer": 14_144,
        "chancy": 4615, "procrastinate": 563,
    },
}  # fmt: skip


def summarize_rounds(
    rounds: dict[tuple[str, str], list[dict[str, float]]], settings: Any
) -> Results:
    """Return median, minimum, maximum and all values of each figure: ``{workload: {system: …}}``.

    Args:
        rounds: The figures of each round, by workload and system.
        settings: The settings of each system.
    """
    results: Results = {}
    for workload in WORKLOADS:
        for figure, unit in workload.units.items():
            name = workload.name if figure == "rate" else f"{workload.name}.{figure}"
            for (workload_name, system), figures_by_round in rounds.items():
                values = [figures[figure] for figures in figures_by_round if figure in figures]
                if workload_name == workload.name and values:
                    results.setdefault(name, {})[system] = {
                        "median": round(statistics.median(values), 3),
                        "min": round(min(values), 3),
                        "max": round(max(values), 3),
                        "values": [round(value, 3) for value in values],
                        "unit": unit,
                        "settings": settings[system],
                    }
    return results


def evaluate_targets(results: Results) -> list[tuple[Target, float]]:
    """Return each target that this run has figures for, with the ratio or figure that it reached.

    A ratio is the median of the ratios of all rounds: the speed of the machine varies, and the two
    measurements of a round ran shortly after each other. If the two workloads have different
    numbers of rounds, the ratio of the medians is used.
    """
    reached_targets = []
    for target in TARGETS:
        ours = results.get(target.figure, {}).get(target.system)
        base = target.base_figure or target.figure
        peer = results.get(base, {}).get(target.base_system) if target.base_system else None
        if ours is None or (target.base_system and peer is None):
            continue
        reached_targets.append((target, _ratio(ours, peer) if peer else ours["median"]))
    return reached_targets


def _ratio(ours: dict[str, Any], base: dict[str, Any]) -> float:
    if len(ours["values"]) == len(base["values"]):
        pairs = zip(ours["values"], base["values"], strict=True)
        return float(statistics.median(value / base_value for value, base_value in pairs))
    return float(ours["median"] / base["median"])


def compare_with_raw(results: Results) -> list[tuple[str, str, float, float]]:
    """Compare the rates of the queues with the rate of ``raw``.

    Returns:
        Rows of workload, system, the ratio of this run, and the ratio of the earlier comparison.
    """
    return [
        (workload, system, _ratio(rates[system], rates["raw"]), rate / earlier["raw"])
        for workload, earlier in EARLIER.items()
        if "raw" in (rates := results.get(workload, {}))
        for system, rate in earlier.items()
        if system in rates and system != "raw"
    ]


def is_met(target: Target, reached: float) -> bool:
    """Return True if a target is met."""
    if target.minimum is not None:
        return reached >= target.minimum
    return target.maximum is not None and reached <= target.maximum


def render_markdown(machine: dict[str, Any], results: Results) -> str:
    """Return the report as Markdown."""
    version = machine.get("server_version", "?")
    lines = ["# picture-queue compared with other queues", ""]
    lines += [f"Written by `make bench`, on Postgres {version}.", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "![The rates of this run](latest.svg)", "", "## Targets", ""]
    lines += ["A ratio is the median of the ratios of all rounds. Targets in bold must be met.", ""]
    lines += ["| workload | compared with | target | result | |", "|---|---|---|---|---|"]
    for target, reached in evaluate_targets(results):
        bound = f"≥ {target.minimum}" if target.minimum is not None else f"≤ {target.maximum}"
        name = f"**{target.figure}**" if target.hard else target.figure
        if target.system != OURS:
            name += f" ({target.system})"
        base = target.base_system or "a fixed bound"
        if target.base_figure:
            base += f", {target.base_figure}"
        times = " times" if target.base_system else ""
        mark = "met" if is_met(target, reached) else "**missed**"
        lines.append(f"| {name} | {base} | {bound}{times} | {reached:.2f}{times} | {mark} |")
    systems = sorted({system for figures in results.values() for system in figures}, key=_order)
    lines += ["", "## Figures", "", "Medians, with the minimum and the maximum in brackets.", ""]
    lines += [f"| workload | {' | '.join(systems)} |", "|---" * (len(systems) + 1) + "|"]
    for name, figures in results.items():
        unit = next(iter(figures.values()))["unit"]
        cells = [_cell(figures.get(system)) for system in systems]
        lines.append(f"| {name} ({unit}) | {' | '.join(cells)} |")
    lines += ["", "## Other queues compared with the raw loop", ""]
    lines += [
        "The rate of each queue divided by the rate of the raw loop, in this run and in an "
        "earlier one on another machine (2 cores, PostgreSQL 15). The raw loop is plain SQL "
        "without a queue.",
        "",
        "| workload | system | this run | earlier run | change |",
        "|---|---|---|---|---|",
    ]
    for workload, system, ratio, earlier in compare_with_raw(results):
        difference = f"{ratio / earlier - 1:+.0%}"
        lines.append(f"| {workload} | {system} | {ratio:.3f} | {earlier:.3f} | {difference} |")
    lines += ["", "## Settings", ""]
    for system in systems:
        description = next(
            figures[system]["settings"] for figures in results.values() if system in figures
        )
        lines.append(f"- {system} {description['version']}: {description['settings']}")
    return "\n".join([*lines, ""])


def _order(system: str) -> tuple[int, str]:
    """Return a sort key: our systems first, the raw loop last."""
    return (0 if system.startswith(OURS) else 2 if system == "raw" else 1, system)


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    digits = 0 if figure["median"] >= 100 else 2
    median, minimum, maximum = (f"{figure[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({minimum} to {maximum})"


_CHART = ("enqueue_one", "enqueue_bulk", "noop_default", "noop_tuned", "noop_two")
# In pixels: the width of the chart, the height of a row, and the widths of a name and a bar.
_WIDTH, _ROW_HEIGHT, _NAME_WIDTH, _BAR_WIDTH = 760, 18, 160, 470


def render_chart(results: Results) -> str:
    """Return the rates as an SVG chart; the bars of a workload share a scale."""
    rows: list[str] = []
    y = 30
    for name in _CHART:
        rates = results.get(name)
        if not rates:
            continue
        title = next(workload.title for workload in WORKLOADS if workload.name == name)
        rows.append(_text(10, y, f"{title} (jobs/s)", bold=True))
        y += 8
        highest = max(figure["median"] for figure in rates.values())
        for system in sorted(rates, key=_order):
            rate = rates[system]["median"]
            length = max(1, int(_BAR_WIDTH * rate / highest))
            colour = "#3ecf8e" if system.startswith(OURS) else "#9aa5b1"
            rows.append(_text(10, y + 13, system))
            rows.append(
                f'<rect x="{_NAME_WIDTH}" y="{y + 2}" width="{length}" height="13" '
                f'fill="{colour}"/>'
            )
            rows.append(_text(_NAME_WIDTH + length + 6, y + 13, f"{rate:,.0f}"))
            y += _ROW_HEIGHT
        y += 28
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
    style = 'font-family="sans-serif" font-size="12" fill="#1f2933">'
    background = f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head + style, background, *rows, "</svg>", ""])


def _text(x: int, y: int, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}"{weight}>{escape(text)}</text>'
