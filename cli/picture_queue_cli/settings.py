"""``picture-queue settings``: the defaults and limits of a project."""

from typing import Annotated

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import parse_changes
from picture_queue_cli.project import connect
from picture_queue_cli.render import out, pairs, plain, print_json

app = Commands(
    help="Show and change the project's defaults.", example="settings set max_attempts=5"
)


@app.command(example="settings show")
def show(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show the settings."""
    with connect(ctx) as pq:
        settings = plain(pq.settings.get())
    if as_json:
        print_json(settings)
    else:
        out().print(pairs(settings))


@app.command("set", example="settings set keep_failed_seconds=30d")
def set_settings(
    ctx: typer.Context,
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE", help="Such as max_attempts=5; =default resets it."),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Change settings."""
    changed = parse_changes(values)
    with connect(ctx) as pq:
        settings = plain(pq.settings.set(**changed))
    if as_json:
        print_json(settings)
    else:
        out().print(pairs({name: settings[name] for name in changed}))
