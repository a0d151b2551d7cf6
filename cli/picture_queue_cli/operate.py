"""``picture-queue settings`` and ``maintain``."""

from typing import Annotated

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import parse_changes
from picture_queue_cli.project import connect
from picture_queue_cli.render import info, out, pairs, plain, print_json

settings = Commands(
    help="Show and change the project's defaults.", example="settings set max_attempts=5"
)

# Labels of the numbers that a round of maintenance returns.
_LABELS = {
    "promoted": "due jobs promoted",
    "swept": "expired leases swept",
    "scheduled": "jobs of schedules enqueued",
    "settled": "dependent jobs and batches updated",
    "failed": "steps that failed",
    "next_in": "seconds until the next round",
}


@settings.command(example="settings show")
def show(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show the settings."""
    with connect(ctx) as pq:
        found = plain(pq.settings.get())
    if as_json:
        print_json(found)
    else:
        out().print(pairs(found))


@settings.command("set", example="settings set keep_failed_seconds=30d")
def set_settings(
    ctx: typer.Context,
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE", help="Set max_attempts=5, or =default to reset."),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Change settings."""
    changed = parse_changes(values)
    with connect(ctx) as pq:
        found = plain(pq.settings.set(**changed))
    if as_json:
        print_json(found)
    else:
        out().print(pairs({name: found[name] for name in changed}))


def maintain(
    ctx: typer.Context,
    *,
    force: Annotated[
        bool, typer.Option(help="Run it even if a worker does the maintenance.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run one round of maintenance."""
    with connect(ctx) as pq:
        answer = plain(pq.maintain(force=force))
    if as_json:
        print_json(answer)
    elif not (answer["leased"] or force):
        info("A worker does the maintenance of this project. To run a round anyway, use --force.")
    else:
        del answer["leased"]
        out().print(pairs({_LABELS.get(name, name): _format(n) for name, n in answer.items()}))


def _format(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
