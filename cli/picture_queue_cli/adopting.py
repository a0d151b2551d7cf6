"""``picture-queue adopt``: a project that runs a job queue already."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from picture_queue_cli.installing import DatabaseUrl, database_settings
from picture_queue_cli.render import out, pairs, print_json, talk, warn
from picture_queue_cli.sharing import JsonFlag, YesFlag

if TYPE_CHECKING:
    from picture_queue.installation.adopt import Adoption


def adopt(
    *,
    db_url: DatabaseUrl = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Do it, print the outcome, and undo it.")
    ] = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Take over the jobs of another queue in the project.

    What is in the way moves into the schema picture_queue_before, in one transaction, which holds
    the old table while it lasts. Another one follows the preview only after a yes.
    """
    from picture_queue.installation.adopt import adopt as take_over

    settings = database_settings(db_url)
    if preview or not yes:
        found = take_over(settings, preview=True)
        _show(found, as_json, done=False)
        if preview or found.schema is None:
            return
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is here to ask", param_hint="--yes")
        typer.confirm("Do that?", abort=True, err=True)
    _show(take_over(settings, preview=False), as_json, done=True)


def _show(found: "Adoption", as_json: bool, *, done: bool) -> None:
    if as_json:
        print_json({"done": done, **asdict(found)})
        return
    if found.schema is None:
        talk("Nothing to do: picture-queue keeps this database already.")
        return
    jobs = ", ".join(f"{count} {status}" for status, count in found.jobs.items())
    console = out()
    console.print(
        pairs(
            {
                "moved to": found.schema,
                "objects": "\n".join(found.moved),
                "jobs kept": jobs or "none",
                "applied": "\n".join(found.applied),
            }
        )
    )
    for note in found.notes:
        warn(note)
    talk("Next: picture-queue doctor" if done else "Nothing was changed.")
