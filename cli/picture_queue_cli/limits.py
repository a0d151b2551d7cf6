"""``picture-queue limits`` and ``picture-queue tenants``."""

from typing import Annotated

import typer

from picture_queue.errors import LimitNotFound
from picture_queue_cli.commands import Commands
from picture_queue_cli.options import MAX_INTEGER, JsonFlag
from picture_queue_cli.parsing import Rate, expect_filled, until, whole_number
from picture_queue_cli.parsing import number as number_of
from picture_queue_cli.parsing import rate as read_rate
from picture_queue_cli.project import connect, every_page
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
    help="Limit how many jobs of a key run or start.",
    example="limits set queue:mail --max-running 4",
)
tenants = Commands(help="Set tenant weights for fair sharing.", example="tenants set acme 3")

Key = Annotated[
    str,
    typer.Argument(
        callback=expect_filled, help="Name a key: global, queue:NAME, type:NAME, user:ID."
    ),
]


@app.command("list", example="limits list")
def list_limits(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List limits, and keys that are paused or waited for."""
    with connect(ctx) as pq:
        found = every_page(pq.limits.list, "key")
    if as_json:
        print_json([plain(limit) for limit in found])
        return
    if not found:
        info("There are no limits.")
        return
    shown = table("key", "running", "of", "rate", "waiting", "", right=("running", "of", "waiting"))
    for limit in found:
        state = ""
        if limit.paused:
            state = "paused" + (f" until {local_time(limit.resume_at)}" if limit.resume_at else "")
        shown.add_row(
            limit.key,
            str(limit.running),
            "" if limit.max_running is None else str(limit.max_running),
            "" if limit.rate is None else f"{limit.rate} in {limit.period_seconds:g} s",
            str(limit.waiting),
            styled(state, "yellow"),
        )
    out().print(shown)


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
            help="Run at most so many at once.",
        ),
    ] = None,
    rate: Annotated[
        Rate | None,
        typer.Option(
            metavar="RATE", parser=read_rate, help="Start at most so many in a time: 10/1m."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the limit of a key, or with user:* of each user."""
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
    """Pause a key: none of its jobs starts."""
    end = until(length, at)
    with connect(ctx) as pq:
        paused = pq.limits.pause(key, end)
    if as_json:
        print_json(plain(paused))
    else:
        end_of_pause = local_time(paused.resume_at)
        print_line(f"{key}: paused" + (f" until {end_of_pause}" if end_of_pause else ""))


@app.command(example="limits resume model:flux")
def resume(ctx: typer.Context, key: Key, *, as_json: JsonFlag = False) -> None:
    """End the pause of a key."""
    with connect(ctx) as pq:
        known = {limit.key for limit in every_page(pq.limits.list, "key")}
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


@tenants.command("list", example="tenants list")
def list_tenants(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List tenant weights; the others have 1."""
    with connect(ctx) as pq:
        found = every_page(pq.tenants.list, "tenant")
    if as_json:
        print_json([plain(tenant) for tenant in found])
        return
    if not found:
        info("Every tenant has weight 1.")
        return
    shown = table("tenant", "weight", right=("weight",))
    for tenant in found:
        shown.add_row(tenant.tenant, f"{tenant.weight:g}")
    out().print(shown)


@tenants.command("set", example="tenants set acme 3")
def set_tenant(
    ctx: typer.Context,
    tenant: Annotated[
        str, typer.Argument(callback=expect_filled, help="Name the tenant as its jobs do.")
    ],
    weight: Annotated[
        float,
        typer.Argument(parser=number_of, help="Give it so many turns where 1 gets one."),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Set the weight of a tenant."""
    with connect(ctx) as pq:
        made = pq.tenants.set(tenant, weight)
    if as_json:
        print_json(plain(made))
    else:
        print_line(f"{made.tenant}: {made.weight:g}")
