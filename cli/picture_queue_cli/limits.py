"""``picture-queue limits`` and ``picture-queue tenants``."""

from typing import Annotated

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled, until
from picture_queue_cli.parsing import rate as read_rate
from picture_queue_cli.project import connect
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

app = Commands(no_args_is_help=True, help="Limit how many jobs of a key run or start.")
tenants = Commands(no_args_is_help=True, help="Set tenant weights for fair sharing.")

Key = Annotated[
    str,
    typer.Argument(
        callback=expect_filled, help="Name a key: global, queue:NAME, type:NAME, user:ID."
    ),
]


@app.command("list")
def list_limits(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List limits, and keys that are paused or waited for."""
    with connect(ctx) as pq:
        found = pq.limits.list()
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


@app.command("set")
def set_limit(
    ctx: typer.Context,
    key: Key,
    *,
    max_running: Annotated[
        int | None, typer.Option(max=2_147_483_647, help="Run at most so many at once.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Start at most so many in a time: 10/1m.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the limit of a key, or with user:* of each user."""
    if max_running is None and rate is None:
        raise typer.BadParameter("give --max-running, --rate or both")
    number, period = read_rate(rate)
    with connect(ctx) as pq:
        limit = pq.limits.set(key, max_running=max_running, rate=number, period=period)
    if as_json:
        print_json(plain(limit))
    else:
        print_line(f"{limit.key}: {limit.running} running, {limit.waiting} waiting")


@app.command()
def delete(ctx: typer.Context, key: Key, *, as_json: JsonFlag = False) -> None:
    """Delete the limit of a key."""
    with connect(ctx) as pq:
        pq.limits.delete(key)
    if as_json:
        print_json({"key": key, "deleted": True})


@app.command()
def pause(
    ctx: typer.Context, key: Key, *, length: For = None, at: Until = None, as_json: JsonFlag = False
) -> None:
    """Pause a key: none of its jobs starts."""
    end = until(length, at)
    with connect(ctx) as pq:
        paused = pq.limits.pause(key, end)
    if as_json:
        print_json(plain(paused))


@app.command()
def resume(ctx: typer.Context, key: Key, *, as_json: JsonFlag = False) -> None:
    """End the pause of a key."""
    with connect(ctx) as pq:
        resumed = pq.limits.resume(key)
    if as_json:
        print_json(plain(resumed))


@tenants.command("list")
def list_tenants(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List tenant weights; the others have 1."""
    with connect(ctx) as pq:
        found = pq.tenants.list()
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


@tenants.command("set")
def set_tenant(
    ctx: typer.Context,
    tenant: Annotated[
        str, typer.Argument(callback=expect_filled, help="Name the tenant as its jobs do.")
    ],
    weight: Annotated[float, typer.Argument(help="Give it so many turns where 1 gets one.")],
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
