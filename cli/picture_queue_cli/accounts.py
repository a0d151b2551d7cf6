"""``picture-queue accounts``: plans, credits and spending of users."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from picture_queue_cli.budgets import FIELDS, cell
from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import (
    EXAMPLE_ID,
    expect_filled,
    parse_number,
    parse_uuid,
    whole_number,
)
from picture_queue_cli.project import connect, read_all_pages
from picture_queue_cli.render import info, local_time, out, pairs, plain, print_json, table

if TYPE_CHECKING:
    from picture_queue.records import Account

app = Commands(help="Show and change plans and credits.", example=f"accounts show {EXAMPLE_ID}")

User = Annotated[UUID, typer.Argument(parser=parse_uuid, metavar="USER", help="Name the user.")]


@app.command("list", example="accounts list --plan free")
def list_accounts(
    ctx: typer.Context,
    *,
    plan: Annotated[
        str | None,
        typer.Option(metavar="PLAN", callback=expect_filled, help="List users of this plan."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the accounts of users."""
    with connect(ctx) as pq:
        accounts = read_all_pages(lambda after: pq.accounts.list(plan=plan, after=after), "user_id")
    if as_json:
        print_json([plain(account) for account in accounts])
        return
    if not accounts:
        info("There are no accounts.")
        return
    numbers = ("credits USD", "pending", "today USD", "month USD")
    listing = table("user", "plan", *numbers, right=numbers)
    for account in accounts:
        listing.add_row(
            str(account.user_id),
            account.plan or "",
            f"{account.credits_usd:g}",
            str(account.pending),
            f"{account.spent_today_usd:g}",
            f"{account.spent_this_month_usd:g}",
        )
    out().print(listing)


@app.command(example=f"accounts show {EXAMPLE_ID}")
def show(ctx: typer.Context, user: User, *, as_json: JsonFlag = False) -> None:
    """Show the credits, spending and limits of a user."""
    with connect(ctx) as pq:
        _print_account(pq.accounts.get(user), as_json)


@app.command("set", example=f"accounts set {EXAMPLE_ID} --plan free")
def set_account(
    ctx: typer.Context,
    user: User,
    *,
    plan: Annotated[
        str | None,
        typer.Option(metavar="PLAN", callback=expect_filled, help="Set this plan; default: none."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the plan of a user."""
    with connect(ctx) as pq:
        _print_account(pq.accounts.set(user, plan=plan), as_json)


# `ignore_unknown_options`: a negative amount such as -5 must not be taken for an option.
@app.command(
    example=f"accounts grant {EXAMPLE_ID} 5 --note 'invoice 17'",
    context_settings={"ignore_unknown_options": True},
)
def grant(
    ctx: typer.Context,
    user: User,
    usd: Annotated[float, typer.Argument(parser=parse_number, help="Add this amount, in USD.")],
    *,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            callback=expect_filled,
            help="Grant once for this key.",
        ),
    ] = None,
    note: Annotated[
        str | None,
        typer.Option(metavar="TEXT", callback=expect_filled, help="Record this in the ledger."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Add credits to the account of a user."""
    with connect(ctx) as pq:
        account = pq.accounts.grant(user, usd, idempotency_key=idempotency_key, note=note)
    _print_account(account, as_json)


@app.command(example="accounts ledger --limit 20")
def ledger(
    ctx: typer.Context,
    *,
    user_id: Annotated[
        UUID | None,
        typer.Option(metavar="ID", parser=parse_uuid, help="List rows of this user."),
    ] = None,
    generation_id: Annotated[
        UUID | None,
        typer.Option(metavar="ID", parser=parse_uuid, help="List rows of this generation."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            metavar="NUMBER", parser=whole_number(1, 1000), help="List at most this many rows."
        ),
    ] = 100,
    as_json: JsonFlag = False,
) -> None:
    """List amounts reserved, settled, refunded and granted."""
    with connect(ctx) as pq:
        rows = pq.accounts.ledger(user_id=user_id, generation_id=generation_id, limit=limit)
    if as_json:
        print_json([plain(row) for row in rows])
        return
    if not rows:
        info("The ledger is empty.")
        return
    # Round 1 is the first run of a generation; each retry adds one.
    listing = table("at", "phase", "USD", "user", "generation", "round", right=("USD", "round"))
    for row in rows:
        listing.add_row(
            local_time(row.at),
            row.phase,
            f"{row.amount_usd:g}",
            str(row.user_id or ""),
            str(row.generation_id or ""),
            str(row.round or ""),
        )
    out().print(listing)


def _print_account(account: "Account", as_json: bool) -> None:
    if as_json:
        print_json(plain(account))
        return
    limits = {field: cell(getattr(account.budget, field)) for field in FIELDS}
    amounts = ("credits_usd", "pending", "spent_today_usd", "spent_this_month_usd")
    rows = {
        "user": str(account.user_id),
        "plan": account.plan or "",
        **{name: cell(getattr(account, name)) for name in amounts},
        **limits,
    }
    out().print(pairs({name: text for name, text in rows.items() if text}))
