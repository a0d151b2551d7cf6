"""All errors of this library, with their codes in SQL and their status in HTTP.

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
│   └── UnknownModel       PQ_UNKNOWN_MODEL      404
├── Conflict               PQ_CONFLICT           409
│   ├── StaleLease         PQ_STALE_LEASE        409
│   ├── JobFinished        PQ_FINISHED_JOB       409
│   ├── JobRunning         PQ_RUNNING_JOB        409
│   └── QueueDraining      PQ_QUEUE_DRAINING     409
├── TooLarge               PQ_TOO_LARGE          413
├── Busy                   PQ_BUSY               503
├── ConnectionFailed       (no answer from the project)
├── VersionMismatch
│   ├── NotInstalled       (the project has no picture-queue functions)
│   ├── DatabaseTooOld
│   └── ClientTooOld
├── ServerError            (an answer of the project that has no name here)
│   └── UnreadableAnswer
├── JobNotCompleted
│   ├── JobFailed
│   └── JobCancelled
├── WaitTimeout
├── WorkerStuck            (handlers that do not end hold its slots)
├── SettingsError
├── InstallationRefused    (the folder or the database is not what the command may change)
├── MigrationFailed        (nothing of that migration was applied)
└── LocalStackError
    ├── StackNotRunning
    ├── StackAlreadyRunning
    ├── PortTaken
    └── MissingProgram

SQL raises ``sqlstate 'PT<http>'`` with the message ``PQ_<CODE>: <fixed text>``. PostgREST turns the
SQLSTATE into the HTTP status and copies the message into the reason phrase unescaped
(https://docs.postgrest.org/en/v12/references/errors.html), so whatever varies stands in DETAIL and
HINT.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from picture_queue.records import Job, JobExplanation


class PictureQueueError(Exception):
    """Base of all errors of this library.

    Args:
        message: What happened, one sentence.
        code: Stable code (``PQ_…``) where the database decided, else None.
        detail: The field and the value that caused it.
        hint: What to do about it.

    Attributes:
        http_status: The status with which the HTTP API sends errors of this class; None where the
            database raises none.
        retry_after: Seconds that the server asks to wait before the call is repeated; None where it
            does not say.
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
        """One line: what happened, where, and what to do."""
        what = f"{self.message}: {self.detail}" if self.detail else self.message
        return " ".join(_sentence(part) for part in (what, self.hint) if part)


def _sentence(text: str) -> str:
    flat = " ".join(text.split())
    if flat.split(" ", 1)[0].isalpha():  # not an address, not the name of a function
        flat = flat[0].upper() + flat[1:]
    return flat if flat.endswith((".", "!", "?", ")")) else flat + "."


class InvalidArgument(PictureQueueError, ValueError):
    """An argument is not acceptable; nothing was written."""

    code = "PQ_INVALID_ARGUMENT"
    http_status = 400


class InvalidInput(InvalidArgument):
    """The prompt or the input of a generation does not fit its model."""

    code = "PQ_INVALID_INPUT"
    http_status = 422


class InvalidCron(InvalidArgument):
    """No such cron expression or time zone, or it never comes."""

    code = "PQ_INVALID_CRON"


class DependencyCycle(InvalidArgument):
    """A job would wait for itself, or for one that stands after it in the same call."""

    code = "PQ_CYCLE"
    http_status = 422


class NotAuthenticated(PictureQueueError):
    """The call needs a signed-in user or a service key."""

    code = "PQ_NOT_AUTHENTICATED"
    http_status = 401


class AuthenticationFailed(NotAuthenticated):
    """The project refused the key or the token."""


class NotAllowed(PictureQueueError):
    """The caller is known but may not do this."""

    code = "PQ_NOT_ALLOWED"
    http_status = 403


class NotFound(PictureQueueError):
    """Nothing of that id is there, or it is not the caller's."""

    http_status = 404


class JobNotFound(NotFound):
    """No such job, or it belongs to somebody else."""

    code = "PQ_UNKNOWN_JOB"


class GenerationNotFound(NotFound):
    """No such generation, or it belongs to somebody else."""

    code = "PQ_UNKNOWN_GENERATION"


class UnknownModel(NotFound):
    """The model is not in the project's catalogue."""

    code = "PQ_UNKNOWN_MODEL"


class QueueNotFound(NotFound):
    """No such queue; or, of an enqueue, the project makes none on demand."""

    code = "PQ_UNKNOWN_QUEUE"


class DependencyNotFound(NotFound):
    """A job to depend on is not there."""

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


class Conflict(PictureQueueError):
    """The call does not fit what the database already holds."""

    code = "PQ_CONFLICT"
    http_status = 409


class StaleLease(Conflict):
    """The lease ended; another worker may hold the job. Nothing was changed."""

    code = "PQ_STALE_LEASE"


class JobFinished(Conflict):
    """The job's state does not permit this: it is finished, or not finished yet."""

    code = "PQ_FINISHED_JOB"


class JobRunning(Conflict):
    """A job that runs cannot be replaced."""

    code = "PQ_RUNNING_JOB"


class QueueDraining(Conflict):
    """The queue takes no new jobs until it is resumed."""

    code = "PQ_QUEUE_DRAINING"


class TooLarge(PictureQueueError):
    """A payload or a result is above the limit."""

    code = "PQ_TOO_LARGE"
    http_status = 413


class Busy(PictureQueueError):
    """The database could not serve the call now; repeating it is safe."""

    code = "PQ_BUSY"
    http_status = 503


class ConnectionFailed(PictureQueueError):
    """No answer came from the project."""


class VersionMismatch(PictureQueueError):
    """The client and the project's SQL do not fit together."""


class NotInstalled(VersionMismatch):
    """The project has no picture-queue functions."""


class DatabaseTooOld(VersionMismatch):
    """The project's SQL is older than this client needs."""


class ClientTooOld(VersionMismatch):
    """The project's SQL no longer serves a client this old."""


class ServerError(PictureQueueError):
    """The project answered with an error that has no name here; ``code`` is the server's."""


class UnreadableAnswer(ServerError):
    """The project's answer cannot be read: it is no JSON, or not of the form that was expected.

    Attributes:
        answer: The JSON that was received.
    """

    answer: bytes = b""


class JobNotCompleted(PictureQueueError):
    """A result was asked of a job that ended without one.

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
    """The wait ended before the job did; the job itself goes on.

    Attributes:
        explanation: Why the job does not move; None: the project did not answer.
    """

    explanation: "JobExplanation | None" = None


class WorkerStuck(PictureQueueError):
    """A worker ended by itself: handlers that do not end hold its slots. Start a new process."""


class SettingsError(PictureQueueError):
    """A setting is missing or not acceptable."""


class InstallationRefused(PictureQueueError):
    """The folder or the database is not what the command may change; nothing was changed."""


class MigrationFailed(PictureQueueError):
    """A migration could not be applied; nothing of it was, and those before it stay."""


class LocalStackError(PictureQueueError):
    """The embedded stack could not do what was asked."""


class StackNotRunning(LocalStackError):
    """There is no embedded stack running in that data directory."""


class StackAlreadyRunning(LocalStackError):
    """An embedded stack is already running in that data directory."""


class PortTaken(LocalStackError):
    """Another program listens on the port."""


class MissingProgram(LocalStackError):
    """A program the embedded stack needs is not installed."""


#: The class of each code that the database raises, in the order of their HTTP status.
BY_CODE: dict[str, type[PictureQueueError]] = {
    error.code: error
    for error in sorted(
        (
            value
            for value in globals().values()
            if isinstance(value, type) and issubclass(value, PictureQueueError)
        ),
        key=lambda error: error.http_status or 0,
    )
    if error.code is not None and "code" in vars(error)
}


def from_database(
    sqlstate: str | None, message: str, detail: str | None = None, hint: str | None = None
) -> PictureQueueError | None:
    """Turn an error our SQL raised into its exception.

    Args:
        sqlstate: The SQLSTATE, ``PT<http>`` for ours.
        message: ``PQ_<CODE>: <fixed text>`` for ours.
        detail: DETAIL of the error.
        hint: HINT of the error.

    Returns:
        The exception to raise, or None when the error is not one of ours.
    """
    code, _, text = message.partition(": ")
    error = BY_CODE.get(code)
    if error is None or not (sqlstate or "").startswith("PT"):
        return None
    return error(text[:1].upper() + text[1:], detail=detail or None, hint=hint or None)
