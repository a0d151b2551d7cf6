"""``picture-queue limits``: limits of keys."""

from typing import Annotated

import typer

from picture_queue.errors import LimitNotFound
from picture_queue_cli.commands import Commands
from picture_queue_cli.options import MAX_INTEGER, JsonFlag
from picture_queue_cli.parsing import (
    Rate,
    expect_filled,
    parse_rate,
    resolve_resume_at,
    whole_number,
)
from picture_queue_cli.project import connect, read_all_pages
from picture_queue_cli.queues import For, Until
from picture_queue_cli.render import (
    info,
    local_time,
    out,
    plain,
    print_json,
    print_line,
    styled,
    table,
)

app = Commands(
    help="Limit concurrency and rate by key.",
    example="limits set queue:mail --max-running 4",
)

Key = Annotated[
    str,
    typer.Argument(
        callback=expect_filled, help="Name the key: global, queue:NAME, type:NAME, user:ID."
    ),
]


@app.command("list", example="limits list")
def list_limits(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List limits, and keys that are paused or block jobs."""
    with connect(ctx) as pq:
        limits = read_all_pages(pq.limits.list, "key")
    if as_json:
        print_json([plain(limit) for limit in limits])
        return
    if not limits:
        info("There are no limits.")
        return
    listing = table(
        "key", "running", "of", "rate", "waiting", "", right=("running", "of", "waiting")
    )
    for limit in limits:
        state = ""
        if limit.paused:
            state = "paused" + (f" until {local_time(limit.resume_at)}" if limit.resume_at else "")
        listing.add_row(
            limit.key,
            str(limit.running),
            "" if limit.max_running is None else str(limit.max_running),
            "" if limit.rate is None else f"{limit.rate} per {limit.period_seconds:g} s",
            str(limit.waiting),
            styled(state, "yellow"),
        )
    out().print(listing)


@app.command("set", example="limits set type:resize --rate 10/1m")
def set_limit(
    ctx: typer.Context,
    key: Key,
    *,
    max_running: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            parser=whole_number(-MAX_INTEGER, MAX_INTEGER),
            help="Run at most this many jobs at once.",
        ),
    ] = None,
    rate: Annotated[
        Rate | None,
        typer.Option(
            metavar="RATE", parser=parse_rate, help="Start at most this many in a period: 10/1m."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the limit of a key, or of each user with user:*."""
    if max_running is None and rate is None:
        raise typer.BadParameter("give --max-running, --rate or both")
    with connect(ctx) as pq:
        limit = pq.limits.set(
            key,
            max_running=max_running,
            rate=rate.count if rate else None,
            period=rate.period if rate else None,
        )
    if as_json:
        print_json(plain(limit))
    else:
        print_line(f"{limit.key}: {limit.running} running, {limit.waiting} waiting")


@app.command(example="limits delete type:resize")
def delete(ctx: typer.Context, key: Key, *, as_json: JsonFlag = False) -> None:
    """Delete the limit of a key."""
    with connect(ctx) as pq:
        pq.limits.delete(key)
    if as_json:
        print_json({"key": key, "deleted": True})
    else:
        info(f"The limit of {key} was deleted.")


@app.command(example="limits pause model:flux --for 10m")
def pause(
    ctx: typer.Context, key: Key, *, length: For = None, at: Until = None, as_json: JsonFlag = False
) -> None:
    """Pause a key, so that none of its jobs starts."""
    end = resolve_resume_at(length, at)
    with connect(ctx) as pq:
        paused = pq.limits.pause(key, end)
    if as_json:
        print_json(plain(paused))
    else:
        resume_at = local_time(paused.resume_at)
        print_line(f"{key}: paused" + (f" until {resume_at}" if resume_at else ""))


@app.command(example="limits resume model:flux")
def resume(ctx: typer.Context, key: Key, *, as_json: JsonFlag = False) -> None:
    """End the pause of a key."""
    with connect(ctx) as pq:
        known = {limit.key for limit in read_all_pages(pq.limits.list, "key")}
        resumed = pq.limits.resume(key)
    if key not in known:
        raise LimitNotFound(
            "No such limit",
            detail=f"KEY is {key!r}, which has no limit and was not paused",
            hint="See: picture-queue limits list",
        )
    if as_json:
        print_json(plain(resumed))
    else:
        print_line(f"{key}: not paused")
