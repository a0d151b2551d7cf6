"""The program ``picture-queue``: global options and the list of commands."""

from typing import Annotated

import typer

from picture_queue import __version__
from picture_queue_cli import (
    adopt,
    batches,
    demo,
    doctor,
    enqueue,
    generate,
    health,
    jobs,
    limits,
    local,
    migrate,
    operate,
    queues,
    schedules,
    watch,
    worker,
)
from picture_queue_cli.commands import Commands
from picture_queue_cli.errors import Program
from picture_queue_cli.project import Target
from picture_queue_cli.render import print_line

_PICTURES = "Pictures"
_JOBS = "Jobs"
_OPERATE = "Operate"
_SET_UP = "Set up"

app = Commands(
    cls=Program,
    name="picture-queue",
    no_args_is_help=True,
    # Only what nobody expected is shown as a traceback, and then as Python shows it.
    pretty_exceptions_enable=False,
    epilog="The project is SUPABASE_URL with one of SUPABASE_KEY, SUPABASE_SERVICE_ROLE_KEY, "
    "SUPABASE_SECRET_KEY or SUPABASE_ANON_KEY; without them, the embedded stack if it is running.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"picture-queue {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    *,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Use the Supabase project at this address.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Use this key of the project.")
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Run jobs and generate pictures in your Supabase project."""
    ctx.obj = Target(url, key)


app.command(rich_help_panel=_PICTURES)(demo.demo)
app.command(rich_help_panel=_PICTURES)(generate.generate)
app.command(rich_help_panel=_PICTURES)(health.models)
app.command(rich_help_panel=_JOBS)(enqueue.enqueue)
app.command(rich_help_panel=_JOBS)(watch.watch)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_JOBS)
app.add_typer(batches.app, name="batches", rich_help_panel=_JOBS)
app.add_typer(schedules.app, name="schedules", rich_help_panel=_JOBS)
app.add_typer(batches.events, name="events", rich_help_panel=_JOBS)
app.command(rich_help_panel=_OPERATE)(worker.worker)
app.command(rich_help_panel=_OPERATE)(health.health)
app.add_typer(queues.app, name="queues", rich_help_panel=_OPERATE)
app.add_typer(limits.app, name="limits", rich_help_panel=_OPERATE)
app.add_typer(limits.tenants, name="tenants", rich_help_panel=_OPERATE)
app.add_typer(operate.settings, name="settings", rich_help_panel=_OPERATE)
app.command(rich_help_panel=_OPERATE)(doctor.doctor)
app.command(rich_help_panel=_OPERATE)(operate.maintain)
app.add_typer(local.app, name="local", rich_help_panel=_SET_UP)
app.command(rich_help_panel=_SET_UP)(migrate.install)
app.command(rich_help_panel=_SET_UP)(migrate.migrate)
app.command(rich_help_panel=_SET_UP)(adopt.adopt)


def main() -> None:
    """Run the program."""
    app(prog_name="picture-queue")
