"""All exceptions of this library, with their codes in SQL and their status in HTTP.

PictureQueueError
├── InvalidArgument        PQ_INVALID_ARGUMENT   400
│   ├── InvalidCron        PQ_INVALID_CRON       400
│   ├── InvalidInput       PQ_INVALID_INPUT      422
│   └── DependencyCycle    PQ_CYCLE              422
├── NotAuthenticated       PQ_NOT_AUTHENTICATED  401
│   └── AuthenticationFailed                     (the project refused the key or token)
├── NotAllowed             PQ_NOT_ALLOWED        403
├── NotFound
│   ├── JobNotFound        PQ_UNKNOWN_JOB        404
│   ├── GenerationNotFound PQ_UNKNOWN_GENERATION 404
│   ├── QueueNotFound      PQ_UNKNOWN_QUEUE      404
│   ├── DependencyNotFound PQ_UNKNOWN_DEPENDENCY 404
│   ├── ScheduleNotFound   PQ_UNKNOWN_SCHEDULE   404
│   ├── BatchNotFound      PQ_UNKNOWN_BATCH      404
│   ├── LimitNotFound      PQ_UNKNOWN_LIMIT      404
│   ├── RuleNotFound       PQ_UNKNOWN_RULE       404
│   ├── BudgetNotFound     PQ_UNKNOWN_BUDGET     404
│   └── UnknownModel       PQ_UNKNOWN_MODEL      404
├── Conflict               PQ_CONFLICT           409
│   ├── StaleLease         PQ_STALE_LEASE        409
│   ├── JobFinished        PQ_FINISHED_JOB       409
│   ├── JobRunning         PQ_RUNNING_JOB        409
│   └── QueueDraining      PQ_QUEUE_DRAINING     409
├── TooLarge               PQ_TOO_LARGE          413
├── LimitExceeded          (a user or the project may not start this generation now)
│   ├── TooManyGenerations PQ_RATE_LIMITED       429
│   ├── BudgetExceeded     PQ_OVER_BUDGET        429
│   └── NotEnoughCredits   PQ_NO_CREDIT          429
├── Busy                   PQ_BUSY               429
├── ConnectionFailed       (no answer from the project)
├── VersionMismatch
│   ├── NotInstalled       (the project has no picture-queue functions)
│   ├── DatabaseTooOld
│   └── ClientTooOld
├── ServerError            (an error of the project that this library does not know)
│   └── UnreadableAnswer
├── JobNotCompleted
│   ├── JobFailed
│   └── JobCancelled
├── WaitTimeout
├── WorkerStuck            (handlers that do not return hold the slots of the worker)
├── SettingsError
├── InstallationRefused    (the command may not change this folder or database)
├── MigrationFailed        (the migration was rolled back)
└── LocalStackError
    ├── StackNotRunning
    ├── StackAlreadyRunning
    ├── PortTaken
    └── MissingProgram
"""

from picture_queue.errors.base import PictureQueueError
from picture_queue.errors.client import (
    ClientTooOld,
    ConnectionFailed,
    DatabaseTooOld,
    InstallationRefused,
    JobCancelled,
    JobFailed,
    JobNotCompleted,
    MigrationFailed,
    NotInstalled,
    ServerError,
    SettingsError,
    UnreadableAnswer,
    VersionMismatch,
    WaitTimeout,
    WorkerStuck,
)
from picture_queue.errors.database import (
    BY_CODE,
    AuthenticationFailed,
    BatchNotFound,
    BudgetExceeded,
    BudgetNotFound,
    Busy,
    Conflict,
    DependencyCycle,
    DependencyNotFound,
    GenerationNotFound,
    InvalidArgument,
    InvalidCron,
    InvalidInput,
    JobFinished,
    JobNotFound,
    JobRunning,
    LimitExceeded,
    LimitNotFound,
    NotAllowed,
    NotAuthenticated,
    NotEnoughCredits,
    NotFound,
    QueueDraining,
    QueueNotFound,
    RuleNotFound,
    ScheduleNotFound,
    StaleLease,
    TooLarge,
    TooManyGenerations,
    UnknownModel,
    from_database,
)
from picture_queue.errors.local import (
    LocalStackError,
    MissingProgram,
    PortTaken,
    StackAlreadyRunning,
    StackNotRunning,
)

__all__ = [
    "BY_CODE",
    "AuthenticationFailed",
    "BatchNotFound",
    "BudgetExceeded",
    "BudgetNotFound",
    "Busy",
    "ClientTooOld",
    "Conflict",
    "ConnectionFailed",
    "DatabaseTooOld",
    "DependencyCycle",
    "DependencyNotFound",
    "GenerationNotFound",
    "InstallationRefused",
    "InvalidArgument",
    "InvalidCron",
    "InvalidInput",
    "JobCancelled",
    "JobFailed",
    "JobFinished",
    "JobNotCompleted",
    "JobNotFound",
    "JobRunning",
    "LimitExceeded",
    "LimitNotFound",
    "LocalStackError",
    "MigrationFailed",
    "MissingProgram",
    "NotAllowed",
    "NotAuthenticated",
    "NotEnoughCredits",
    "NotFound",
    "NotInstalled",
    "PictureQueueError",
    "PortTaken",
    "QueueDraining",
    "QueueNotFound",
    "RuleNotFound",
    "ScheduleNotFound",
    "ServerError",
    "SettingsError",
    "StackAlreadyRunning",
    "StackNotRunning",
    "StaleLease",
    "TooLarge",
    "TooManyGenerations",
    "UnknownModel",
    "UnreadableAnswer",
    "VersionMismatch",
    "WaitTimeout",
    "WorkerStuck",
    "from_database",
]
