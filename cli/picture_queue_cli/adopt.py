"""``picture-queue adopt``: take over the jobs of another queue in the project."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from picture_queue_cli.migrate import DatabaseUrl, database_settings
from picture_queue_cli.options import JsonFlag, YesFlag
from picture_queue_cli.render import info, out, pairs, print_json, warn

if TYPE_CHECKING:
    from picture_queue.installation.adopt import Adoption


def adopt(
    *,
    db_url: DatabaseUrl = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Run it, print the result, and roll back.")
    ] = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Take over the jobs of another queue in the project.

    Moves conflicting objects into the schema picture_queue_before and copies the jobs, in one
    transaction that locks the old table. Shows a preview and asks before it changes anything.
    """
    from picture_queue.installation.adopt import adopt as take_over

    settings = database_settings(db_url)
    if preview or not yes:
        found = take_over(settings, preview=True)
        _show(found, as_json, done=False)
        if preview or found.schema is None:
            return
        if not sys.stdin.isatty():
            raise typer.BadParameter("there is no terminal to ask on", param_hint="--yes")
        typer.confirm("Adopt this queue?", abort=True, err=True)
    _show(take_over(settings, preview=False), as_json, done=True)


def _show(found: "Adoption", as_json: bool, *, done: bool) -> None:
    if as_json:
        print_json({"done": done, **asdict(found)})
        return
    if found.schema is None:
        info("Nothing to do: picture-queue already manages this database.")
        return
    jobs = ", ".join(f"{count} {status}" for status, count in found.jobs.items())
    console = out()
    console.print(
        pairs(
            {
                "moved to": found.schema,
                "objects": "\n".join(found.moved),
                "jobs copied": jobs or "none",
                "applied": "\n".join(found.applied),
            }
        )
    )
    for note in found.notes:
        warn(note)
    info("Next: picture-queue doctor" if done else "Nothing was changed.")
