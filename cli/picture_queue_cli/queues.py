"""``picture-queue queues``: show queues and change their settings."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import MAX_INTEGER, JsonFlag, PreviewFlag, YesFlag, confirm
from picture_queue_cli.parsing import (
    expect_filled,
    parse_changes,
    parse_time,
    parse_wait,
    resolve_resume_at,
    whole_number,
)
from picture_queue_cli.project import connect, read_all_pages
from picture_queue_cli.render import (
    duration,
    info,
    local_time,
    out,
    pairs,
    plain,
    print_json,
    styled,
    table,
)

if TYPE_CHECKING:
    from picture_queue.records import Queue, QueueHealth

app = Commands(
    help="Show queues and change their settings.", example="queues set mail max_attempts=5"
)

Name = Annotated[
    str, typer.Argument(metavar="QUEUE", callback=expect_filled, help="Name the queue.")
]
For = Annotated[
    float | None,
    typer.Option("--for", metavar="DURATION", parser=parse_wait, help="Pause for 90s, 10m or 2h."),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until", metavar="TIME", parser=parse_time, help="Pause until 2030-01-31T08:00."
    ),
]

_BAR_WIDTH = 24  # characters
_BAR_PARTS = (
    ("processing", "yellow"),
    ("parked", "magenta"),
    ("pending", "cyan"),
    ("blocked", "red"),
    ("waiting", "blue"),
    ("scheduled", "bright_black"),
)


@app.command("list", example="queues list")
def list_queues(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List the queues and their job counts."""
    with connect(ctx) as pq:
        queues = {queue.name: queue for queue in read_all_pages(pq.queues.list, "name")}
        counts = read_all_pages(pq.queues.counts, "queue")
    if as_json:
        print_json([{**plain(queues[row.queue]), **plain(row)} for row in counts])
        return
    numbers = ("pending", "processing", "held", "failed", "last minute")
    listing = table("queue", "jobs", *numbers, "oldest", "", right=(*numbers, "oldest"))
    largest = max((sum(getattr(row, name) for name, _ in _BAR_PARTS) for row in counts), default=0)
    for row in counts:
        parts = {name: getattr(row, name) for name, _ in _BAR_PARTS}
        held = row.scheduled + row.blocked + row.waiting + row.parked
        listing.add_row(
            row.queue,
            _draw_bar(parts, largest),
            str(row.pending),
            str(row.processing),
            str(held),
            Text(str(row.failed), style="red" if row.failed else ""),
            str(row.finished_last_minute),
            "" if row.oldest_seconds is None else duration(row.oldest_seconds),
            queue_state(queues[row.queue]),
        )
    out().print(listing)


def _draw_bar(parts: dict[str, int], largest: int) -> Text:
    """Return a bar with a part for each state of jobs; the bar of the largest queue is full."""
    bar = Text()
    for name, style in _BAR_PARTS:
        width = -(-_BAR_WIDTH * parts[name] // largest) if largest else 0  # rounded up
        bar.append("█" * width, style=style)
    return bar


def queue_state(queue: "Queue | QueueHealth") -> Text:
    """Return whether a queue is paused or draining."""
    if queue.paused:
        end = f" until {local_time(queue.resume_at)}" if queue.resume_at else ""
        reason = f": {queue.pause_reason}" if queue.pause_reason else ""
        return styled(f"paused{end}{reason}", "yellow")
    return Text("draining" if queue.draining else "", style="yellow")


@app.command(example="queues show mail")
def show(ctx: typer.Context, queue: Name, *, as_json: JsonFlag = False) -> None:
    """Show the settings of a queue."""
    with connect(ctx) as pq:
        policies = {policy.name: policy for policy in read_all_pages(pq.queues.list, "name")}
    if queue not in policies:
        from picture_queue.errors import QueueNotFound

        raise QueueNotFound(
            "No such queue", detail=f"queue is {queue!r}", hint="See: picture-queue queues list"
        )
    _print_queue(policies[queue], as_json)


@app.command("set", example="queues set mail lease_seconds=5m")
def set_queue(
    ctx: typer.Context,
    queue: Name,
    settings: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE", help="Such as max_attempts=5; =default resets it."),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Create a queue, or change its settings."""
    changed = parse_changes(settings)
    with connect(ctx) as pq:
        _print_queue(pq.queues.set(queue, **changed), as_json)


@app.command(example="queues pause mail --for 1h")
def pause(
    ctx: typer.Context,
    queue: Name,
    *,
    length: For = None,
    at: Until = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Record the reason of the pause.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pause a queue; running jobs continue."""
    end = resolve_resume_at(length, at)
    with connect(ctx) as pq:
        _print_queue(pq.queues.pause(queue, resume_at=end, reason=reason), as_json)


@app.command(example="queues resume mail")
def resume(ctx: typer.Context, queue: Name, *, as_json: JsonFlag = False) -> None:
    """Resume a queue that is paused or draining."""
    with connect(ctx) as pq:
        _print_queue(pq.queues.resume(queue), as_json)


@app.command(example="queues drain mail")
def drain(ctx: typer.Context, queue: Name, *, as_json: JsonFlag = False) -> None:
    """Refuse new jobs and run the existing jobs."""
    with connect(ctx) as pq:
        _print_queue(pq.queues.drain(queue), as_json)


@app.command(example="queues purge mail --preview")
def purge(
    ctx: typer.Context,
    queue: Name,
    *,
    preview: PreviewFlag = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Cancel all pending jobs of a queue."""
    with connect(ctx) as pq:
        matched = pq.queues.purge(queue, preview=True).matched
        changed = 0
        if matched and not preview:
            if not yes:
                confirm(f"Cancel {matched} pending jobs of {queue}?")
            idle_calls = 0
            # A call that changes nothing has recorded failures; the next takes other jobs.
            while idle_calls < 20:
                result = pq.queues.purge(queue)
                changed += result.changed
                if not result.more:
                    break
                idle_calls = 0 if result.changed else idle_calls + 1
    if as_json:
        print_json({"matched": matched, "changed": changed})
    elif not matched:
        info("No job is pending.")
    else:
        out().print(f"{matched} would be changed" if preview else f"{changed} changed")


@app.command(example="queues workers mail --max 20")
def workers(
    ctx: typer.Context,
    queue: Annotated[
        str | None, typer.Argument(callback=expect_filled, help="Count this queue only.")
    ] = None,
    *,
    jobs_per_worker: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            parser=whole_number(1, MAX_INTEGER),
            help="Assume that a worker runs this many jobs.",
        ),
    ] = 10,
    min_workers: Annotated[
        int,
        typer.Option(
            "--min",
            metavar="NUMBER",
            parser=whole_number(0, MAX_INTEGER),
            help="Recommend at least this many.",
        ),
    ] = 0,
    max_workers: Annotated[
        int,
        typer.Option(
            "--max",
            metavar="NUMBER",
            parser=whole_number(0, MAX_INTEGER),
            help="Recommend at most this many.",
        ),
    ] = 100,
    as_json: JsonFlag = False,
) -> None:
    """Print the recommended number of workers."""
    if min_workers > max_workers:
        raise typer.BadParameter(f"--min {min_workers} is above --max {max_workers}")
    with connect(ctx) as pq:
        workers = pq.queues.desired_workers(
            queue,
            jobs_per_worker=jobs_per_worker,
            min_workers=min_workers,
            max_workers=max_workers,
        )
    if as_json:
        print_json(plain(workers))
    else:
        info(f"Jobs: {workers.running} running, {workers.ready} ready")
        out().print(str(workers.desired))


def _print_queue(queue: "Queue", as_json: bool) -> None:
    if as_json:
        print_json(plain(queue))
        return
    rows = {
        name: value
        for name, value in plain(queue).items()
        if name not in ("paused", "resume_at", "pause_reason", "draining", "jobs", "created_at")
    }
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(queue.jobs.items()))
    out().print(pairs({**rows, "jobs": jobs or "none", "state": queue_state(queue) or "open"}))
