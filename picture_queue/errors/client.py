"""Errors of calls and waits: those of the client, the command line and the worker."""

from typing import TYPE_CHECKING

from picture_queue.errors.base import PictureQueueError

if TYPE_CHECKING:
    from picture_queue.records import Job, JobExplanation


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
