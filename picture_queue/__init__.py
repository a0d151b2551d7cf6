"""picture-queue: background jobs in your Supabase project's own Postgres, from Python."""

from typing import TYPE_CHECKING, Any

from picture_queue.errors import (
    AuthenticationFailed,
    Busy,
    ClientTooOld,
    Conflict,
    ConnectionFailed,
    DatabaseTooOld,
    GenerationNotFound,
    InvalidArgument,
    InvalidInput,
    JobCancelled,
    JobFailed,
    JobFinished,
    JobNotCompleted,
    JobNotFound,
    LocalStackError,
    MissingProgram,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotInstalled,
    PictureQueueError,
    PortTaken,
    ServerError,
    SettingsError,
    StackAlreadyRunning,
    StackNotRunning,
    StaleLease,
    TooLarge,
    UnknownModel,
    VersionMismatch,
    WaitTimeout,
    WorkerStuck,
)

if TYPE_CHECKING:
    from picture_queue._async.client import AsyncPictureQueue
    from picture_queue._sync.client import PictureQueue
    from picture_queue.records import (
        Backoff,
        CancelRequest,
        Enqueued,
        Generation,
        Health,
        Image,
        Job,
        JobEvent,
        JobStatus,
        Model,
        StartedGeneration,
        Version,
    )
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

# Loaded at first use: the supabase client alone takes a third of a second to import.
_WHERE = {
    "AsyncPictureQueue": "picture_queue._async.client",
    "PictureQueue": "picture_queue._sync.client",
    **dict.fromkeys(
        (
            "Backoff",
            "CancelRequest",
            "Enqueued",
            "Generation",
            "Health",
            "Image",
            "Job",
            "JobEvent",
            "JobStatus",
            "Model",
            "StartedGeneration",
            "Version",
        ),
        "picture_queue.records",
    ),
    **dict.fromkeys(
        (
            "Cancel",
            "JobContext",
            "Park",
            "PermanentFailure",
            "RateLimited",
            "Retry",
            "Snooze",
            "SyncJobContext",
            "Worker",
        ),
        "picture_queue.worker",
    ),
    "WorkerSettings": "picture_queue.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


__all__ = [
    "AsyncPictureQueue",
    "AuthenticationFailed",
    "Backoff",
    "Busy",
    "Cancel",
    "CancelRequest",
    "ClientTooOld",
    "Conflict",
    "ConnectionFailed",
    "DatabaseTooOld",
    "Enqueued",
    "Generation",
    "GenerationNotFound",
    "Health",
    "Image",
    "InvalidArgument",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobEvent",
    "JobFailed",
    "JobFinished",
    "JobNotCompleted",
    "JobNotFound",
    "JobStatus",
    "LocalStackError",
    "MissingProgram",
    "Model",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "NotInstalled",
    "Park",
    "PermanentFailure",
    "PictureQueue",
    "PictureQueueError",
    "PortTaken",
    "RateLimited",
    "Retry",
    "ServerError",
    "SettingsError",
    "Snooze",
    "StackAlreadyRunning",
    "StackNotRunning",
    "StaleLease",
    "StartedGeneration",
    "SyncJobContext",
    "TooLarge",
    "UnknownModel",
    "Version",
    "VersionMismatch",
    "WaitTimeout",
    "Worker",
    "WorkerSettings",
    "WorkerStuck",
]
