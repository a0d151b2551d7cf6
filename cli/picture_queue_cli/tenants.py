"""``picture-queue tenants``: the weights of tenants."""

from typing import Annotated

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled, parse_number
from picture_queue_cli.project import connect, read_all_pages
from picture_queue_cli.render import info, out, plain, print_json, print_line, table

app = Commands(help="Set tenant weights for fair sharing.", example="tenants set acme 3")


@app.command("list", example="tenants list")
def list_tenants(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List tenant weights; the default is 1."""
    with connect(ctx) as pq:
        tenants = read_all_pages(pq.tenants.list, "tenant")
    if as_json:
        print_json([plain(tenant) for tenant in tenants])
        return
    if not tenants:
        info("Every tenant has weight 1.")
        return
    listing = table("tenant", "weight", right=("weight",))
    for tenant in tenants:
        listing.add_row(tenant.tenant, f"{tenant.weight:g}")
    out().print(listing)


@app.command("set", example="tenants set acme 3")
def set_tenant(
    ctx: typer.Context,
    tenant: Annotated[
        str, typer.Argument(callback=expect_filled, help="Set the weight of this tenant.")
    ],
    weight: Annotated[
        float,
        typer.Argument(
            parser=parse_number, help="Start this many jobs for each job of a tenant of weight 1."
        ),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Set the weight of a tenant."""
    with connect(ctx) as pq:
        changed = pq.tenants.set(tenant, weight)
    if as_json:
        print_json(plain(changed))
    else:
        print_line(f"{changed.tenant}: {changed.weight:g}")
