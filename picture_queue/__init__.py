"""picture-queue: background jobs in the Postgres database of your Supabase project.

This module exports the names that most programs need. Other public names are in `errors` (the
exceptions), `records` (the results of calls) and `options` (the arguments of calls).
"""

from typing import TYPE_CHECKING, Any

from picture_queue.errors import (
    InvalidArgument,
    JobCancelled,
    JobFailed,
    PictureQueueError,
    WaitTimeout,
)

if TYPE_CHECKING:
    from picture_queue._async.client import AsyncPictureQueue
    from picture_queue._sync.client import PictureQueue
    from picture_queue.generations.builtin import add_generations
    from picture_queue.options import Backoff, NewJob, Unique
    from picture_queue.records import Generation, Image, Job, JobEvent, JobStatus
    from picture_queue.settings import WorkerSettings
    from picture_queue.worker import (
        Cancel,
        JobContext,
        Park,
        PermanentFailure,
        RateLimited,
        Retry,
        Snooze,
        SyncJobContext,
        Worker,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncPictureQueue",
    "Backoff",
    "Cancel",
    "Generation",
    "Image",
    "InvalidArgument",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobEvent",
    "JobFailed",
    "JobStatus",
    "NewJob",
    "Park",
    "PermanentFailure",
    "PictureQueue",
    "PictureQueueError",
    "RateLimited",
    "Retry",
    "Snooze",
    "SyncJobContext",
    "Unique",
    "WaitTimeout",
    "Worker",
    "WorkerSettings",
    "add_generations",
]

# Imported at first use, because importing the supabase client takes a third of a second.
_LAZY_EXPORTS = {
    "AsyncPictureQueue": "_async.client",
    "PictureQueue": "_sync.client",
    "WorkerSettings": "settings",
    "add_generations": "generations.builtin",
    **dict.fromkeys(("Backoff", "NewJob", "Unique"), "options"),
    **dict.fromkeys(("Generation", "Image", "Job", "JobEvent", "JobStatus"), "records"),
    **dict.fromkeys(
        ("Cancel", "Park", "PermanentFailure", "RateLimited", "Retry", "Snooze"), "worker"
    ),
    **dict.fromkeys(("JobContext", "SyncJobContext", "Worker"), "worker"),
}


if not TYPE_CHECKING:  # a type checker that sees `__getattr__` accepts every misspelt import

    def __getattr__(name: str) -> Any:
        if name not in _LAZY_EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LAZY_EXPORTS[name]}"), name)
