"""``picture-queue budgets``: what the project, plans and users may spend."""

from typing import Annotated, Any

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled, parse_changes
from picture_queue_cli.project import connect, read_all_pages
from picture_queue_cli.render import info, out, pairs, plain, print_json, table

app = Commands(
    help="Limit what users and the project may spend.",
    example="budgets set project usd_per_day=20",
)

Key = Annotated[
    str,
    typer.Argument(callback=expect_filled, help="Name it: project, user:*, plan:NAME or user:ID."),
]
FIELDS = (
    "usd_per_day",
    "usd_per_month",
    "per_minute",
    "per_hour",
    "max_pending",
    "needs_credits",
    "exempts_service",
)


@app.command("list", example="budgets list")
def list_budgets(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List the budgets."""
    with connect(ctx) as pq:
        budgets = read_all_pages(pq.budgets.list, "key")
    if as_json:
        print_json([plain(budget) for budget in budgets])
        return
    if not budgets:
        info("There are no budgets.")
        return
    listing = table("key", *FIELDS, right=FIELDS)
    for budget in budgets:
        listing.add_row(budget.key, *(cell(getattr(budget, field)) for field in FIELDS))
    out().print(listing)


@app.command(example="budgets show user:*")
def show(ctx: typer.Context, key: Key, *, as_json: JsonFlag = False) -> None:
    """Show a budget."""
    from picture_queue.errors import BudgetNotFound

    with connect(ctx) as pq:
        budgets = {budget.key: budget for budget in read_all_pages(pq.budgets.list, "key")}
    if key not in budgets:
        raise BudgetNotFound(
            "No such budget", detail=f"KEY is {key!r}", hint="See: picture-queue budgets list"
        )
    _print_budget(budgets[key], as_json)


@app.command("set", example="budgets set plan:free usd_per_day=0.5 per_minute=5")
def set_budget(
    ctx: typer.Context,
    key: Key,
    limits: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE", help="Such as usd_per_day=20; =default removes it."),
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Create or change a budget."""
    changed = parse_changes(limits)
    with connect(ctx) as pq:
        _print_budget(pq.budgets.set(key, **changed), as_json)


@app.command(example="budgets delete plan:free")
def delete(ctx: typer.Context, key: Key, *, as_json: JsonFlag = False) -> None:
    """Delete a budget."""
    with connect(ctx) as pq:
        pq.budgets.delete(key)
    if as_json:
        print_json({"key": key, "deleted": True})
    else:
        info(f"The budget of {key} was deleted.")


def cell(value: Any) -> str:
    """Return the value of a limit as the text of a table cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}"


def _print_budget(budget: Any, as_json: bool) -> None:
    if as_json:
        print_json(plain(budget))
        return
    limits = {field: cell(getattr(budget, field)) for field in FIELDS}
    set_limits = {field: text for field, text in limits.items() if text}
    out().print(pairs({"key": budget.key, **set_limits}))
