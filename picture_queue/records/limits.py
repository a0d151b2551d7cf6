"""Limit keys."""

from datetime import datetime

from picture_queue.records.base import Record


class Limit(Record):
    """A limit key that has a limit, is paused, or has waiting jobs.

    At most ``max_running`` jobs run at once; at most ``rate`` start in any ``period_seconds``.
    ``running`` counts the jobs of the key that run, ``waiting`` the jobs that the key holds back.
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
    """A paused or resumed limit key; a pause without ``resume_at`` lasts until a resume."""

    key: str
    paused: bool
    resume_at: datetime | None
