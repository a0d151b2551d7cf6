"""``picture-queue schedules``: recurring jobs."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from rich.text import Text

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag, with_schedule_options
from picture_queue_cli.parsing import choice, expect_filled, parse_duration, read_object
from picture_queue_cli.project import connect, read_all_pages
from picture_queue_cli.render import (
    format_age,
    info,
    local_time,
    out,
    pairs,
    plain,
    print_json,
    print_line,
    styled,
    table,
)

if TYPE_CHECKING:
    from picture_queue.records import Schedule

app = Commands(help="Schedule recurring jobs.", example="schedules set tidy cleanup --cron @daily")

Name = Annotated[
    str, typer.Argument(metavar="NAME", callback=expect_filled, help="Name the schedule.")
]


Missed = Literal["skip", "once", "all"]


@app.command("list", example="schedules list")
def list_schedules(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List the schedules."""
    with connect(ctx) as pq:
        schedules = read_all_pages(pq.schedules.list, "name")
    if as_json:
        print_json([plain(schedule) for schedule in schedules])
        return
    if not schedules:
        info("There are no schedules.")
        return
    listing = table("name", "type", "runs", "next", "last", "")
    for schedule in schedules:
        listing.add_row(
            schedule.name,
            str(schedule.job.get("job_type")),
            _format_recurrence(schedule),
            Text("paused", style="yellow")
            if schedule.paused
            else Text(format_age(schedule.next_at)),
            format_age(schedule.last_at),
            styled(schedule.last_error or "", "red"),
        )
    out().print(listing)


def _format_recurrence(schedule: "Schedule") -> str:
    if schedule.cron is None:
        return f"every {schedule.every_seconds:g} s"
    return f"{schedule.cron} {schedule.timezone}"


@app.command("set", example="schedules set tidy cleanup --every 10m")
@with_schedule_options
def set_schedule(
    ctx: typer.Context,
    name: Name,
    job_type: Annotated[
        str, typer.Argument(callback=expect_filled, help="Run the handler of this job type.")
    ],
    payload: Annotated[str, typer.Argument(help="Pass a JSON object, @FILE, or - (stdin).")] = "{}",
    *,
    options: dict[str, Any],
    cron: Annotated[
        str | None,
        typer.Option(
            metavar="CRON", callback=expect_filled, help="Run at '30 9 * * mon-fri', or @daily."
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="DURATION",
            parser=parse_duration,
            help="Run at this interval instead: 90s, 10m, 2h.",
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(metavar="ZONE", callback=expect_filled, help="Read --cron in this time zone."),
    ] = None,
    missed: Annotated[
        Missed,
        typer.Option(
            metavar="|".join(get_args(Missed)),
            parser=choice(*get_args(Missed)),
            help="Choose what to do about missed runs.",
        ),
    ] = "once",
    paused: Annotated[
        bool | None, typer.Option("--paused/--not-paused", help="Pause or resume the schedule.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Create or change a schedule."""
    if (cron is None) == (every is None):
        raise typer.BadParameter("give either --cron or --every")
    if timezone is not None and cron is None:
        raise typer.BadParameter("it is only for --cron", param_hint="--timezone")
    content = read_object(payload)
    with connect(ctx) as pq:
        schedule = pq.schedules.set(
            name,
            job_type,
            content,
            cron=cron,
            every=every,
            timezone=timezone or "UTC",
            missed=missed,
            paused=paused,
            **options,
        )
    _print_schedule(schedule, as_json)


@app.command(example="schedules delete tidy")
def delete(ctx: typer.Context, name: Name, *, as_json: JsonFlag = False) -> None:
    """Delete a schedule and keep the jobs it enqueued."""
    with connect(ctx) as pq:
        if not pq.schedules.delete(name):
            from picture_queue.errors import ScheduleNotFound

            raise ScheduleNotFound(
                "No such schedule",
                detail=f"name is {name!r}",
                hint="See: picture-queue schedules list",
            )
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        info(f"The schedule {name} was deleted. The jobs that it enqueued are kept.")


@app.command(example="schedules pause tidy")
def pause(ctx: typer.Context, name: Name, *, as_json: JsonFlag = False) -> None:
    """Pause a schedule."""
    with connect(ctx) as pq:
        _print_schedule(pq.schedules.pause(name), as_json)


@app.command(example="schedules resume tidy")
def resume(ctx: typer.Context, name: Name, *, as_json: JsonFlag = False) -> None:
    """Resume a schedule at its next run."""
    with connect(ctx) as pq:
        _print_schedule(pq.schedules.resume(name), as_json)


@app.command(example="schedules run tidy")
def run(ctx: typer.Context, name: Name, *, as_json: JsonFlag = False) -> None:
    """Run a schedule now and print the job's id."""
    with connect(ctx) as pq:
        job = pq.schedules.run(name)
    if as_json:
        print_json({"job_id": job.id, "outcome": job.outcome})
    else:
        print_line(str(job.id))


def _print_schedule(schedule: "Schedule", as_json: bool) -> None:
    if as_json:
        print_json(plain(schedule))
        return
    out().print(
        pairs(
            {
                "name": schedule.name,
                "type": schedule.job.get("job_type"),
                "runs": _format_recurrence(schedule),
                "missed": schedule.missed,
                "next": "paused" if schedule.paused else local_time(schedule.next_at),
                "last": local_time(schedule.last_at),
                "error": schedule.last_error,
            }
        )
    )
