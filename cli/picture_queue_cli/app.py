"""The program ``picture-queue``: global options and the list of commands."""

from collections.abc import Callable
from typing import Annotated

import typer

from picture_queue import __version__
from picture_queue_cli import (
    accounts,
    adopt,
    batches,
    budgets,
    demo,
    doctor,
    enqueue,
    events,
    generate,
    generations,
    health,
    jobs,
    limits,
    local,
    maintain,
    migrate,
    models,
    queues,
    rules,
    schedules,
    serve,
    settings,
    tenants,
    watch,
    worker,
)
from picture_queue_cli.commands import Commands
from picture_queue_cli.errors import RootCommand
from picture_queue_cli.parsing import EXAMPLE_ID, expect_filled
from picture_queue_cli.project import Target
from picture_queue_cli.render import print_line

_PICTURES = "Pictures"
_JOBS = "Jobs"
_OPERATE = "Operate"
_SET_UP = "Set up"

app = Commands(
    cls=RootCommand,
    name="picture-queue",
    example="generate 'A lighthouse at dusk'",
)


def _show_version(is_requested: bool) -> None:
    if is_requested:
        print_line(f"picture-queue {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    *,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", callback=expect_filled, help="Use the Supabase project at this address."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", callback=expect_filled, help="Use this key of the project."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Run jobs and generate pictures in your Supabase project.

    The project is SUPABASE_URL with one of SUPABASE_KEY, SUPABASE_SERVICE_ROLE_KEY,
    SUPABASE_SECRET_KEY or SUPABASE_ANON_KEY; without them, the embedded stack if it is running.
    """
    ctx.obj = Target(url, key)


def _add_command(panel: str, command: Callable[..., None], example: str) -> None:
    app.command(rich_help_panel=panel, example=example)(command)


_add_command(_PICTURES, demo.demo, "demo --prompt 'A cat'")
_add_command(_PICTURES, generate.generate, "generate 'A cat' --timeout 5m")
app.add_typer(generations.app, name="generations", rich_help_panel=_PICTURES)
app.add_typer(models.app, name="models", rich_help_panel=_PICTURES)
app.add_typer(rules.app, name="rules", rich_help_panel=_PICTURES)
_add_command(_JOBS, enqueue.enqueue, """enqueue resize '{"path": "a.png"}'""")
_add_command(_JOBS, watch.watch, f"watch {EXAMPLE_ID}")
app.add_typer(jobs.app, name="jobs", rich_help_panel=_JOBS)
app.add_typer(batches.app, name="batches", rich_help_panel=_JOBS)
app.add_typer(schedules.app, name="schedules", rich_help_panel=_JOBS)
app.add_typer(events.app, name="events", rich_help_panel=_JOBS)
_add_command(_OPERATE, worker.worker, "worker --app jobs:worker --queue mail")
_add_command(_OPERATE, serve.serve, "serve --port 8080 --worker")
_add_command(_OPERATE, health.health, "health")
app.add_typer(queues.app, name="queues", rich_help_panel=_OPERATE)
app.add_typer(limits.app, name="limits", rich_help_panel=_OPERATE)
app.add_typer(tenants.app, name="tenants", rich_help_panel=_OPERATE)
app.add_typer(budgets.app, name="budgets", rich_help_panel=_OPERATE)
app.add_typer(accounts.app, name="accounts", rich_help_panel=_OPERATE)
app.add_typer(settings.app, name="settings", rich_help_panel=_OPERATE)
_add_command(_OPERATE, doctor.doctor, "doctor --check workers")
_add_command(_OPERATE, maintain.maintain, "maintain --force")
app.add_typer(local.app, name="local", rich_help_panel=_SET_UP)
_add_command(_SET_UP, migrate.install, "install --dir supabase")
_add_command(_SET_UP, migrate.migrate, "migrate --preview --db-url URL")
_add_command(_SET_UP, adopt.adopt, "adopt --preview --db-url URL")


def main() -> None:
    """Run the program."""
    app(prog_name="picture-queue")
