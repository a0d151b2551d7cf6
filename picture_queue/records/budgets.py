"""Budgets: what the project, a plan or a user may spend."""

from picture_queue.records.base import Record


class Budget(Record):
    """The limits of a budget key. A field that is None sets no limit.

    ``key`` is ``project``, ``user:*`` (each user), ``plan:<name>`` (each user of a plan) or
    ``user:<id>``.
    """

    key: str
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    max_pending: int | None = None
    needs_credits: bool | None = None
    exempts_service: bool | None = None
