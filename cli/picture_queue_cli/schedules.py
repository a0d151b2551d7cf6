"""``picture-queue schedules``: jobs that come again."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from picture_queue_cli.project import connect
from picture_queue_cli.reading import read_object, seconds
from picture_queue_cli.render import (
    ago,
    local_time,
    out,
    pairs,
    plain,
    print_json,
    print_line,
    table,
    talk,
)
from picture_queue_cli.sharing import JsonFlag, describing

if TYPE_CHECKING:
    from picture_queue import Schedule

app = typer.Typer(no_args_is_help=True, help="Let jobs come again.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.")]


class Missed(StrEnum):
    """What is made up for when ticks passed unseen."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


@app.command("list")
def list_schedules(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List the schedules."""
    with connect(ctx) as pq:
        found = pq.schedules.list()
    if as_json:
        print_json([plain(schedule) for schedule in found])
        return
    if not found:
        talk("There are no schedules.")
        return
    shown = table("name", "type", "comes", "next", "last", "")
    for schedule in found:
        shown.add_row(
            schedule.name,
            str(schedule.job.get("job_type")),
            _rhythm(schedule),
            Text("paused", style="yellow") if schedule.paused else Text(ago(schedule.next_at)),
            ago(schedule.last_at),
            Text(schedule.last_error or "", style="red"),
        )
    out().print(shown)


def _rhythm(schedule: "Schedule") -> str:
    if schedule.cron is None:
        return f"every {schedule.every_seconds:g} s"
    return f"{schedule.cron} {schedule.timezone}"


@app.command("set")
@describing
def set_schedule(
    ctx: typer.Context,
    name: Name,
    job_type: Annotated[str, typer.Argument(help="Which handler runs its jobs.")],
    payload: Annotated[
        str, typer.Argument(help="A JSON object, @FILE to read one, or - for standard input.")
    ] = "{}",
    *,
    options: dict[str, Any],
    cron: Annotated[
        str | None, typer.Option(help="'30 9 * * mon-fri', or @daily and the like.")
    ] = None,
    every: Annotated[str | None, typer.Option(help="Instead of --cron: 90s, 10m, 2h.")] = None,
    timezone: Annotated[str, typer.Option(help="Where it is that time of day.")] = "UTC",
    missed: Annotated[Missed, typer.Option(help="What to make up for.")] = Missed.ONCE,
    paused: Annotated[
        bool | None, typer.Option("--paused/--not-paused", help="Whether it makes no jobs.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make or change a schedule."""
    content = read_object(payload)
    length = seconds(every, "--every")
    with connect(ctx) as pq:
        made = pq.schedules.set(
            name,
            job_type,
            content,
            cron=cron,
            every=length,
            timezone=timezone,
            missed=missed.value,
            paused=paused,
            **options,
        )
    _print(made, as_json)


@app.command()
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a schedule; the jobs it made stay."""
    with connect(ctx) as pq:
        if not pq.schedules.delete(name):
            talk("There was none.")


@app.command()
def pause(ctx: typer.Context, name: Name, *, as_json: JsonFlag = False) -> None:
    """Let a schedule make no jobs."""
    with connect(ctx) as pq:
        _print(pq.schedules.pause(name), as_json)


@app.command()
def resume(ctx: typer.Context, name: Name, *, as_json: JsonFlag = False) -> None:
    """Let a schedule go on with its next tick from now."""
    with connect(ctx) as pq:
        _print(pq.schedules.resume(name), as_json)


@app.command()
def run(ctx: typer.Context, name: Name, *, as_json: JsonFlag = False) -> None:
    """Make a job of a schedule now, and print its id."""
    with connect(ctx) as pq:
        made = pq.schedules.run(name)
    if as_json:
        print_json({"job_id": made.id, "outcome": made.outcome})
    else:
        print_line(str(made.id))


def _print(schedule: "Schedule", as_json: bool) -> None:
    if as_json:
        print_json(plain(schedule))
        return
    out().print(
        pairs(
            {
                "name": schedule.name,
                "type": schedule.job.get("job_type"),
                "comes": _rhythm(schedule),
                "missed": schedule.missed,
                "next": "paused" if schedule.paused else local_time(schedule.next_at),
                "last": local_time(schedule.last_at),
                "error": schedule.last_error,
            }
        )
    )
