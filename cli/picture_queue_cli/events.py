"""``picture-queue events``: external events."""

from typing import Annotated

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled, read_json
from picture_queue_cli.project import connect
from picture_queue_cli.render import out, print_json

app = Commands(help="Send an external event to waiting jobs.", example="events send order-17-paid")


@app.command(example="events send order-17-paid")
def send(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(callback=expect_filled, help="Wake the jobs parked on this event."),
    ],
    payload: Annotated[
        str, typer.Argument(help="Pass JSON to the jobs, @FILE, or - (stdin).")
    ] = "null",
    *,
    as_json: JsonFlag = False,
) -> None:
    """Send an event to the jobs that wait for it."""
    content = read_json(payload, "PAYLOAD")
    with connect(ctx) as pq:
        woken = pq.events.send(name, content)
    if as_json:
        print_json({"woken": woken})
    else:
        out().print("Woke 1 job" if woken == 1 else f"Woke {woken} jobs")
