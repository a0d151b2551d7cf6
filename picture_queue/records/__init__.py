"""The rows that the database holds and the results of calls, as immutable values."""

from picture_queue.records.accounts import Account, LedgerEntry, UserBudget
from picture_queue.records.base import Record
from picture_queue.records.batches import Batch, EnqueuedBatch
from picture_queue.records.budgets import Budget
from picture_queue.records.generations import (
    BatchCancelRequest,
    BatchGeneration,
    DeletedGeneration,
    Generation,
    GenerationBatch,
    Image,
    MissingImage,
    StartedBatch,
    StartedGeneration,
)
from picture_queue.records.jobs import (
    CancelRequest,
    Changed,
    Enqueued,
    FailedAttempt,
    FailureReason,
    Hold,
    Job,
    JobEvent,
    JobExplanation,
    JobHistory,
    JobPosition,
    JobReason,
    JobStatus,
    LogLine,
    Source,
    Transition,
)
from picture_queue.records.limits import Limit, PausedKey
from picture_queue.records.models import Model, ModelKind, ProviderCapabilities
from picture_queue.records.predictions import (
    BegunPrediction,
    FinalState,
    PredictionModel,
    PredictionOwner,
    PredictionRow,
    ReceivedPrediction,
    SavedImage,
)
from picture_queue.records.project import (
    Finding,
    Health,
    JobTypeWithoutWorker,
    Maintenance,
    QueueHealth,
    Version,
)
from picture_queue.records.queues import DesiredWorkers, Queue, QueueCounts
from picture_queue.records.rules import InputRule, RuleAction
from picture_queue.records.schedules import Schedule
from picture_queue.records.settings import Setting
from picture_queue.records.tenants import Tenant
from picture_queue.records.workers import (
    ClaimedJob,
    HeartbeatAnswer,
    PartlyReadable,
    Unreadable,
    WorkerSeen,
)

__all__ = [
    "Account",
    "Batch",
    "BatchCancelRequest",
    "BatchGeneration",
    "BegunPrediction",
    "Budget",
    "CancelRequest",
    "Changed",
    "ClaimedJob",
    "DeletedGeneration",
    "DesiredWorkers",
    "Enqueued",
    "EnqueuedBatch",
    "FailedAttempt",
    "FailureReason",
    "FinalState",
    "Finding",
    "Generation",
    "GenerationBatch",
    "Health",
    "HeartbeatAnswer",
    "Hold",
    "Image",
    "InputRule",
    "Job",
    "JobEvent",
    "JobExplanation",
    "JobHistory",
    "JobPosition",
    "JobReason",
    "JobStatus",
    "JobTypeWithoutWorker",
    "LedgerEntry",
    "Limit",
    "LogLine",
    "Maintenance",
    "MissingImage",
    "Model",
    "ModelKind",
    "PartlyReadable",
    "PausedKey",
    "PredictionModel",
    "PredictionOwner",
    "PredictionRow",
    "ProviderCapabilities",
    "Queue",
    "QueueCounts",
    "QueueHealth",
    "ReceivedPrediction",
    "Record",
    "RuleAction",
    "SavedImage",
    "Schedule",
    "Setting",
    "Source",
    "StartedBatch",
    "StartedGeneration",
    "Tenant",
    "Transition",
    "Unreadable",
    "UserBudget",
    "Version",
    "WorkerSeen",
]
