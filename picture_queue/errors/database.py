"""Errors that the SQL functions raise, and the translation of their codes.

SQL raises ``sqlstate 'PT<http>'`` with the message ``PQ_<CODE>: <fixed text>``. PostgREST turns the
SQLSTATE into the HTTP status and copies the message into the reason phrase unescaped
(https://docs.postgrest.org/en/v12/references/errors.html). So the message is constant, and all
variable text is in DETAIL and HINT.
"""

import re

from picture_queue.errors.base import PictureQueueError


class InvalidArgument(PictureQueueError, ValueError):
    """An argument is invalid; nothing was written."""

    code = "PQ_INVALID_ARGUMENT"
    http_status = 400


class InvalidInput(InvalidArgument):
    """The prompt or the input of a generation does not fit its model."""

    code = "PQ_INVALID_INPUT"
    http_status = 422


class InvalidCron(InvalidArgument):
    """A cron expression or a time zone is invalid, or the expression matches no time."""

    code = "PQ_INVALID_CRON"


class DependencyCycle(InvalidArgument):
    """A job depends on itself, or on a job that comes later in the same call."""

    code = "PQ_CYCLE"
    http_status = 422


class NotAuthenticated(PictureQueueError):
    """The call needs a signed-in user or a service key."""

    code = "PQ_NOT_AUTHENTICATED"
    http_status = 401


class AuthenticationFailed(NotAuthenticated):
    """The project refused the key or the token."""


class NotAllowed(PictureQueueError):
    """The caller is authenticated, but lacks the permission for the call."""

    code = "PQ_NOT_ALLOWED"
    http_status = 403


class NotFound(PictureQueueError):
    """No object has that id, or it belongs to another user."""

    http_status = 404


class JobNotFound(NotFound):
    """No such job, or it belongs to another user."""

    code = "PQ_UNKNOWN_JOB"


class GenerationNotFound(NotFound):
    """No such generation, or it belongs to another user."""

    code = "PQ_UNKNOWN_GENERATION"


class UnknownModel(NotFound):
    """The model is not in the project's catalogue."""

    code = "PQ_UNKNOWN_MODEL"


class QueueNotFound(NotFound):
    """No such queue. An enqueue creates missing queues only if the project's settings allow it."""

    code = "PQ_UNKNOWN_QUEUE"


class DependencyNotFound(NotFound):
    """A job that another job should depend on does not exist."""

    code = "PQ_UNKNOWN_DEPENDENCY"


class ScheduleNotFound(NotFound):
    """No such schedule."""

    code = "PQ_UNKNOWN_SCHEDULE"


class BatchNotFound(NotFound):
    """No such batch."""

    code = "PQ_UNKNOWN_BATCH"


class LimitNotFound(NotFound):
    """The key has no limit."""

    code = "PQ_UNKNOWN_LIMIT"


class RuleNotFound(NotFound):
    """There is no such rule over an input."""

    code = "PQ_UNKNOWN_RULE"


class BudgetNotFound(NotFound):
    """The key has no budget."""

    code = "PQ_UNKNOWN_BUDGET"


class Conflict(PictureQueueError):
    """The call conflicts with existing data."""

    code = "PQ_CONFLICT"
    http_status = 409


class StaleLease(Conflict):
    """The lease ended; another worker may hold the job. Nothing was changed."""

    code = "PQ_STALE_LEASE"


class JobFinished(Conflict):
    """The job has finished, so it cannot be cancelled or retried."""

    code = "PQ_FINISHED_JOB"


class JobRunning(Conflict):
    """The job has not finished, so it cannot be replaced, retried, discarded or deleted."""

    code = "PQ_RUNNING_JOB"


class QueueDraining(Conflict):
    """The queue accepts no new jobs until it is resumed."""

    code = "PQ_QUEUE_DRAINING"


class TooLarge(PictureQueueError):
    """A payload or a result is larger than the limit."""

    code = "PQ_TOO_LARGE"
    http_status = 413


class LimitExceeded(PictureQueueError):
    """A user or the project may not start this generation now; nothing was written.

    The attribute ``retry_after`` has the seconds after which the call may succeed; it is None if
    no time is known, because another generation has to end or credits have to be granted.
    """

    http_status = 429


class TooManyGenerations(LimitExceeded):
    """The user has started too many generations in a period, or too many have not ended."""

    code = "PQ_RATE_LIMITED"


class BudgetExceeded(LimitExceeded):
    """The generation costs more than the budget of the user or the project has left."""

    code = "PQ_OVER_BUDGET"


class NotEnoughCredits(LimitExceeded):
    """The generation costs more than the credits of the user."""

    code = "PQ_NO_CREDIT"


class Busy(PictureQueueError):
    """The database could not serve the call now; repeating it is safe."""

    code = "PQ_BUSY"
    http_status = 429  # not 503, after which PostgREST reconnects and reloads its schema cache


# The end of the DETAIL of the errors of class `LimitExceeded`; 412_function__spending.sql writes
# it.
_RETRY_AFTER = re.compile(r"; retry_after is (\d+(?:\.\d+)?) s, at ")

# In the order of their HTTP status. A test compares their codes with those of the SQL.
_RAISED_CLASSES: tuple[type[PictureQueueError], ...] = (
    InvalidArgument,
    InvalidCron,
    NotAuthenticated,
    NotAllowed,
    JobNotFound,
    GenerationNotFound,
    UnknownModel,
    QueueNotFound,
    DependencyNotFound,
    ScheduleNotFound,
    BatchNotFound,
    LimitNotFound,
    RuleNotFound,
    BudgetNotFound,
    Conflict,
    StaleLease,
    JobFinished,
    JobRunning,
    QueueDraining,
    TooLarge,
    InvalidInput,
    DependencyCycle,
    TooManyGenerations,
    BudgetExceeded,
    NotEnoughCredits,
    Busy,
)

#: The exception class of each code that the database raises, sorted by HTTP status.
BY_CODE: dict[str, type[PictureQueueError]] = {
    class_.code: class_ for class_ in _RAISED_CLASSES if class_.code is not None
}


def from_database(
    sqlstate: str | None, message: str, detail: str | None = None, hint: str | None = None
) -> PictureQueueError | None:
    """Return the exception for an error that our SQL functions raised.

    Args:
        sqlstate: The SQLSTATE; ``PT<http>`` if our SQL raised the error.
        message: The message; ``PQ_<CODE>: <fixed text>`` if our SQL raised the error.
        detail: The DETAIL of the error.
        hint: The HINT of the error.

    Returns:
        The exception to raise; None if PostgreSQL itself raised the error.
    """
    code, _, text = message.partition(": ")
    class_ = BY_CODE.get(code)
    if class_ is None or not (sqlstate or "").startswith("PT"):
        return None
    error = class_(text[:1].upper() + text[1:], detail=detail or None, hint=hint or None)
    if isinstance(error, LimitExceeded):
        match = _RETRY_AFTER.search(detail or "")
        error.retry_after = float(match[1]) if match else None
    return error
