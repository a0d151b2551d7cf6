"""Limits of keys."""

from datetime import datetime

from picture_queue.records.base import Record


class Limit(Record):
    """The limit of a key, or a key that is paused or waited for.

    ``max_running`` jobs run at once; ``rate`` start in any ``period_seconds``.
    """

    key: str
    max_running: int | None
    rate: int | None
    period_seconds: float | None
    paused: bool
    resume_at: datetime | None
    running: int
    waiting: int


class PausedKey(Record):
    """A paused or resumed limit key; ``resume_at`` None: it stays so until it is resumed."""

    key: str
    paused: bool
    resume_at: datetime | None
