"""Accounts of users, and the ledger of what generations cost."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from picture_queue.records.base import Record


class UserBudget(Record):
    """The limits that apply to one user.

    For each field, the budget ``user:<id>`` takes precedence over the budget of the user's plan,
    and the budget of the plan over ``user:*``.
    """

    usd_per_day: float | None = None
    usd_per_month: float | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    max_pending: int | None = None
    needs_credits: bool = False
    exempts_service: bool = False


class Account(Record):
    """The credits, the spending and the limits of a user.

    ``pending`` counts the generations that have not ended. The amounts spent are those of the
    current day and month (UTC), including the amounts reserved for pending generations.
    """

    user_id: UUID
    plan: str | None
    credits_usd: float
    pending: int
    spent_today_usd: float
    spent_this_month_usd: float
    budget: UserBudget


class LedgerEntry(Record):
    """A row of the ledger.

    The start of a generation reserves the expected cost. The end settles the actual cost and
    refunds the rest. A retry of a generation reserves the cost again, with the next number as
    ``round``. ``price_usd`` is the price of one picture or one second, as ``price_unit`` says.
    ``provider_usd`` is what the provider charges for the predictions of the round, in the row that
    ends it.
    """

    id: int
    phase: Literal["reserve", "settle", "refund", "grant"]
    generation_id: UUID | None
    round: int | None
    user_id: UUID | None
    model_id: str | None
    amount_usd: float
    price_usd: float | None
    price_unit: Literal["image", "second"] | None
    idempotency_key: str | None
    note: str | None
    at: datetime
    provider_usd: float | None = None
