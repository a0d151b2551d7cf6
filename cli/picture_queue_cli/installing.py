"""``picture-queue install``: the SQL into a project's ``supabase/migrations/``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from picture_queue_cli.render import print_json, print_line, talk, warn
from picture_queue_cli.sharing import JsonFlag

if TYPE_CHECKING:
    from picture_queue.installation.folder import Installation

_NEXT = "supabase db push"


def install(
    *,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="What `supabase init` made.")
    ] = Path("supabase"),
    as_json: JsonFlag = False,
) -> None:
    """Write the migrations into your project, for `supabase db push`. Prints the files written."""
    from picture_queue import __version__
    from picture_queue.installation import folder

    done = folder.install(directory, __version__)
    if as_json:
        print_json(
            {
                "directory": str(done.directory),
                "written": [str(path) for path in done.written],
                "present": [str(path) for path in done.present],
                "edited": [str(path) for path in done.edited],
                "next": _NEXT,
            }
        )
    else:
        _show(done)


def _show(done: "Installation") -> None:
    for path in done.written:
        print_line(str(path))
    for path in done.edited:
        warn(f"{path} is not as it was installed; it was left as it is.")
    if done.written:
        talk(f"Next: {_NEXT}, then picture-queue doctor")
    else:
        talk(f"Nothing to write: {done.directory} has all migrations of this version.")
