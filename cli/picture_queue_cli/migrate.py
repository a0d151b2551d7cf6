"""``picture-queue install`` and ``migrate``: write the migrations as files, or apply them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from picture_queue.errors import SettingsError
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import parse_directory
from picture_queue_cli.render import info, print_json, print_line, warn

if TYPE_CHECKING:
    from picture_queue.installation.folder import Installation
    from picture_queue.settings import DatabaseSettings

_PUSH = "supabase db push"
Folder = Annotated[
    Path,
    typer.Option(
        "--dir",
        metavar="DIR",
        parser=parse_directory,
        help="Use the directory that `supabase init` created.",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--db-url",
        metavar="URL",
        envvar="PICTURE_QUEUE_DATABASE_URL",
        help="Use the database at postgresql://user:password@host/name.",
    ),
]
_FOLDER = Path("supabase")


def install(
    *, directory: Folder = _FOLDER, db_url: DatabaseUrl = None, as_json: JsonFlag = False
) -> None:
    """Write the migrations into your project's folder."""
    from picture_queue import __version__
    from picture_queue.installation import folder

    if db_url:
        _expect_not_migrated(db_url)
    installation = folder.install(directory, __version__)
    if as_json:
        print_json(
            {
                "directory": str(installation.directory),
                "written": [str(path) for path in installation.written],
                "present": [str(path) for path in installation.present],
                "edited": [str(path) for path in installation.edited],
                "next": _PUSH,
            }
        )
    else:
        _show(installation)


def _expect_not_migrated(db_url: str) -> None:
    from picture_queue.installation import database, state

    database.expect_tool(database_settings(db_url), state.MigrationTool.CLI)


def _show(installation: "Installation") -> None:
    for path in installation.written:
        print_line(str(path))
    for path in installation.edited:
        warn(f"{path} was edited after its installation, and is not changed.")
    if installation.written:
        info(f"Next: {_PUSH}, then picture-queue doctor")
    else:
        info(f"Nothing to write: {installation.directory} has all migrations of this version.")


def migrate(
    *,
    db_url: DatabaseUrl = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Print the migrations, change nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Apply the migrations to the database."""
    from picture_queue.installation import database

    settings = database_settings(db_url)

    def show_name(name: str) -> None:
        if not as_json:
            print_line(name)

    if preview:
        names = database.pending(settings)
        for name in names:
            show_name(name)
    else:
        names = database.migrate(settings, show_name)
    if as_json:
        print_json({"pending" if preview else "applied": names})
    elif not names:
        info("Nothing to apply: the database has all migrations of this version.")
    else:
        info("Nothing was changed." if preview else "Next: picture-queue doctor")


def database_settings(db_url: str | None) -> "DatabaseSettings":
    """Return the database of the command line.

    Raises:
        SettingsError: No database is given.
    """
    from picture_queue.settings import DatabaseSettings

    if not (db_url and db_url.strip()):
        raise SettingsError(
            "No database is given",
            hint="Set --db-url or PICTURE_QUEUE_DATABASE_URL to the address of role postgres, from "
            "the project's settings (Connect, Direct connection or Session pooler)",
        )
    return DatabaseSettings(db_url)
