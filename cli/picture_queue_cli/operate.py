"""``picture-queue settings`` and ``maintain``."""

from typing import Annotated

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import changes
from picture_queue_cli.project import connect
from picture_queue_cli.render import info, out, pairs, plain, print_json

settings = Commands(no_args_is_help=True, help="Show and change the project's defaults.")


@settings.command()
def show(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show the settings."""
    with connect(ctx) as pq:
        found = plain(pq.settings.get())
    if as_json:
        print_json(found)
    else:
        out().print(pairs(found))


@settings.command("set")
def set_settings(
    ctx: typer.Context,
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="Set max_attempts=5, or =default to reset."),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Change settings."""
    changed = changes(values)
    with connect(ctx) as pq:
        found = plain(pq.settings.set(**changed))
    if as_json:
        print_json(found)
    else:
        out().print(pairs({name: found[name] for name in changed}))


def maintain(
    ctx: typer.Context,
    *,
    force: Annotated[bool, typer.Option(help="Run it even if a worker does it.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run one round of maintenance."""
    with connect(ctx) as pq:
        answer = plain(pq.maintain(force=force))
    if as_json:
        print_json(answer)
    elif not (answer["leased"] or force):
        info("A worker does the maintenance of this project. Run a round anyway with --force.")
    else:
        out().print(pairs({name: n for name, n in answer.items() if name != "leased"}))
