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

SQL raises ``sqlstate 'PT<http>'`` with the message ``PQ_<CODE>: <fixed text>``. PostgREST turns the
SQLSTATE into the HTTP status and copies the message into the reason phrase unescaped
(https://docs.postgrest.org/en/v12/references/errors.html). So the message is constant, and all
variable text is in DETAIL and HINT.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from picture_queue.records import Job, JobExplanation


class PictureQueueError(Exception):
    """Base of all errors of this library.

    Args:
        message: The failure, in one sentence.
        code: The stable code (``PQ_…``) of an error that the database raised; otherwise None.
        detail: The field and the value that caused the error.
        hint: The action that fixes the error.

    Attributes:
        http_status: The HTTP status of errors of this class; None if the database never raises
            them.
        retry_after: Seconds that the server asks to wait before the call is repeated; None if it
            does not ask for a wait.
    """

    code: str | None = None
    http_status: int | None = None
    retry_after: float | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        """Return message, detail and hint as sentences in one line."""
        failure = f"{self.message}: {self.detail}" if self.detail else self.message
        return " ".join(_sentence(part) for part in (failure, self.hint) if part)


def _sentence(text: str) -> str:
    flat = " ".join(text.split())
    if flat.split(" ", 1)[0].isalpha():  # a URL or the name of a function keeps its case
        flat = flat[0].upper() + flat[1:]
    return flat if flat.endswith((".", "!", "?", ")")) else flat + "."


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


class ConnectionFailed(PictureQueueError):
    """The project did not answer."""


class VersionMismatch(PictureQueueError):
    """The client and the project's SQL have incompatible versions."""


class NotInstalled(VersionMismatch):
    """The project has no picture-queue functions."""


class DatabaseTooOld(VersionMismatch):
    """The project's SQL is older than this client needs."""


class ClientTooOld(VersionMismatch):
    """This client is older than the project's SQL needs."""


class ServerError(PictureQueueError):
    """The project returned an error that this library does not know.

    The attribute ``code`` is the code that the server sent, such as a SQLSTATE.
    """


class UnreadableAnswer(ServerError):
    """The project's answer cannot be read: it is not JSON, or not in the expected format.

    Attributes:
        answer: The body of the answer, as it was received.
    """

    answer: bytes = b""


class JobNotCompleted(PictureQueueError):
    """The result of a job was requested, but the job failed or was cancelled.

    Args:
        job: The job in its final state.
    """

    def __init__(self, job: "Job") -> None:
        super().__init__(f"Job {job.id} {job.status}", detail=job.error)
        self.job = job


class JobFailed(JobNotCompleted):
    """The job failed after its last attempt."""


class JobCancelled(JobNotCompleted):
    """The job was cancelled."""


class WaitTimeout(PictureQueueError, TimeoutError):
    """The job did not finish within the timeout of the wait; the job itself continues.

    Attributes:
        explanation: The reason why the job does not run; None if the project did not answer.
    """

    explanation: "JobExplanation | None" = None


class WorkerStuck(PictureQueueError):
    """The worker stopped because handlers do not return and hold its slots; start a new process."""


class SettingsError(PictureQueueError):
    """A setting is missing or invalid."""


class InstallationRefused(PictureQueueError):
    """The command may not change this folder or database; nothing was changed."""


class MigrationFailed(PictureQueueError):
    """A migration failed and was rolled back; the migrations before it remain applied."""


class LocalStackError(PictureQueueError):
    """A command of the embedded stack failed."""


class StackNotRunning(LocalStackError):
    """No embedded stack is running in that data directory."""


class StackAlreadyRunning(LocalStackError):
    """An embedded stack is already running in that data directory."""


class PortTaken(LocalStackError):
    """Another program listens on the port."""


class MissingProgram(LocalStackError):
    """A program that the embedded stack needs is not installed."""


# The end of the DETAIL of the errors of class `LimitExceeded`; 412_function__spending.sql writes
# it.
_RETRY_AFTER = re.compile(r"; retry_after is (\d+(?:\.\d+)?) s, at ")

#: The exception class of each code that the database raises, sorted by HTTP status.
BY_CODE: dict[str, type[PictureQueueError]] = {
    class_.code: class_
    for class_ in sorted(
        (
            value
            for value in globals().values()
            if isinstance(value, type) and issubclass(value, PictureQueueError)
        ),
        key=lambda class_: class_.http_status or 0,
    )
    if class_.code is not None and "code" in vars(class_)  # not a code that the class inherits
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
