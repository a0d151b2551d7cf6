"""Runs jobs: `Worker`, and what its handlers say and get."""

from picture_queue.worker.context import JobContext, SyncJobContext
from picture_queue.worker.verdicts import (
    Cancel,
    Park,
    PermanentFailure,
    RateLimited,
    Retry,
    Snooze,
)
from picture_queue.worker.worker import Worker

__all__ = [
    "Cancel",
    "JobContext",
    "Park",
    "PermanentFailure",
    "RateLimited",
    "Retry",
    "Snooze",
    "SyncJobContext",
    "Worker",
]
