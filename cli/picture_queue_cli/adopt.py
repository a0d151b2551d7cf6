"""``picture-queue adopt``: take over the jobs of another queue in the project."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from picture_queue_cli.migrate import DatabaseUrl, database_settings
from picture_queue_cli.options import JsonFlag, YesFlag, expect_terminal
from picture_queue_cli.render import info, out, pairs, print_json, warn

if TYPE_CHECKING:
    from picture_queue.installation.adopt import Adoption


def adopt(
    *,
    db_url: DatabaseUrl = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the result, then roll back.")
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
        adoption = take_over(settings, preview=True)
        _show(adoption, as_json, done=False)
        if preview or not adoption.was_needed:
            return
        expect_terminal("the adoption")
        typer.confirm("Adopt this queue?", abort=True, err=True)
    _show(take_over(settings, preview=False), as_json, done=True)


def _show(adoption: "Adoption", as_json: bool, *, done: bool) -> None:
    if as_json:
        print_json({"done": done, **asdict(adoption)})
        return
    if not adoption.was_needed:
        info("Nothing to do: picture-queue already manages this database.")
        return
    jobs = ", ".join(f"{count} {status}" for status, count in adoption.jobs.items())
    console = out()
    console.print(
        pairs(
            {
                "moved to": adoption.schema,
                "objects": "\n".join(adoption.moved),
                "jobs copied": jobs or "none",
                "applied": "\n".join(adoption.applied),
            }
        )
    )
    for note in adoption.notes:
        warn(note)
    info("Next: picture-queue doctor" if done else "Nothing was changed.")
