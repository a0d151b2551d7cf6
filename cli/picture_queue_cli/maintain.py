"""``picture-queue maintain``: a round of maintenance."""

from typing import Annotated

import typer

from picture_queue_cli.options import JsonFlag
from picture_queue_cli.project import connect
from picture_queue_cli.render import info, out, pairs, plain, print_json

# Labels of the numbers that a round of maintenance returns.
_LABELS = {
    "promoted": "due jobs promoted",
    "swept": "expired leases swept",
    "scheduled": "jobs of schedules enqueued",
    "resolved": "dependent jobs and batches updated",
    "failed": "steps that failed",
    "next_in": "seconds until the next round",
}


def maintain(
    ctx: typer.Context,
    *,
    force: Annotated[bool, typer.Option(help="Run even if a worker does the maintenance.")] = False,
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
        rows = {_LABELS.get(name, name): _format_number(value) for name, value in answer.items()}
        out().print(pairs(rows))


def _format_number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
