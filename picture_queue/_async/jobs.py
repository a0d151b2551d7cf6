"""Jobs: enqueue, read, change and watch them."""

import builtins
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Literal, Unpack, overload
from uuid import UUID

from pydantic import JsonValue

from picture_queue._realtime.follow import Watcher, follow, wait_for_job
from picture_queue._rpc import jobs as _rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue.errors import JobCancelled, JobFailed
from picture_queue.options import JobFilter, JobOptions, NewJob
from picture_queue.records import (
    CancelRequest,
    Changed,
    Enqueued,
    FailureReason,
    Job,
    JobEvent,
    JobExplanation,
    JobHistory,
    JobPosition,
    JobStatus,
)


class AsyncJobs:
    """The jobs of a project; with a user's token, only the jobs of this user."""

    def __init__(self, backend: AsyncBackend, watcher: Watcher) -> None:
        self._backend = backend
        self._watcher = watcher

    async def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, JsonValue] | None = None,
        **options: Unpack[JobOptions],
    ) -> Enqueued:
        """Enqueue a job. Needs a service key.

        Args:
            job_type: The job type, which selects the handler.
            payload: The JSON object that the handler gets; by default at most 64 KiB.
            **options: Options of the job; see `JobOptions`.

        Returns:
            The id of the job, and the outcome of the enqueue.

        Raises:
            InvalidArgument: A value is invalid; the error names the field and the value.
            TooLarge: The payload is larger than the limit.
            Conflict: A different job has this ``job_id``.
            DependencyNotFound: A job in ``depends_on`` does not exist.
            QueueNotFound: The queue does not exist, and the project's settings do not allow an
                enqueue to create it.
            QueueDraining: The queue accepts no new jobs.
            JobRunning: The existing job that the new job should replace is already running.
        """
        job: NewJob = {"job_type": job_type, "payload": payload, **options}
        return await self._backend.call(_rpc.enqueue_job(job))

    async def enqueue_many(self, jobs: Iterable[NewJob]) -> builtins.list[Enqueued]:
        """Enqueue many jobs in one call: all of them or none.

        Args:
            jobs: The jobs, each with its type, payload and options.

        Returns:
            The id of each job, and the outcome of its enqueue, in the order of the jobs.

        Raises:
            PictureQueueError: For the same reasons as in `enqueue`; the error names the position of
                the job.
            DependencyCycle: A job depends on a job that comes later in the list.
        """
        return await self._backend.call(_rpc.enqueue_jobs(jobs))

    async def get(self, job_id: UUID | str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: No such job, or it belongs to another user.
        """
        return await self._backend.call(_rpc.get_job(job_id))

    async def list(
        self,
        *,
        limit: int = 100,
        before_seq: int | None = None,
        **filter: Unpack[JobFilter],
    ) -> builtins.list[Job]:
        """Return jobs.

        Args:
            limit: Maximum number of results, up to 1000.
            before_seq: The ``seq`` of the last job of the previous page. A page of more than 8 MiB
                ends early, so continue until a page is empty.
            **filter: The conditions that the jobs must meet; see `JobFilter`.

        Returns:
            The jobs, newest first.

        Raises:
            InvalidArgument: The filter is invalid; the error names the field and the value.
        """
        return await self._backend.call(_rpc.list_jobs(filter, limit=limit, before_seq=before_seq))

    async def change(
        self,
        action: Literal["retry", "cancel", "discard"],
        *,
        preview: bool = False,
        limit: int = 10_000,
        **filter: Unpack[JobFilter],
    ) -> Changed:
        """Retry failed jobs, cancel unfinished jobs, or discard finished jobs.

        Args:
            action: The change to make.
            preview: Whether to count the jobs without changing them.
            limit: Maximum number of jobs in this call, up to 10,000; a call retries up to 500
                generations.
            **filter: The conditions that the jobs must meet; see `JobFilter`. An empty filter is
                refused.

        Returns:
            The number of jobs that matched, and the number that changed.

        Raises:
            InvalidArgument: The filter is invalid; the error names the field and the value.
        """
        rpc = _rpc.change_jobs(action, filter, preview=preview, limit=limit)
        return await self._backend.call(rpc)

    async def failure_reasons(self, **filter: Unpack[JobFilter]) -> builtins.list[FailureReason]:
        """Group the failed jobs by the reason of their failure, and count them.

        Args:
            **filter: The conditions that the jobs must meet; see `JobFilter`.

        Returns:
            The reasons, the most frequent first.
        """
        return await self._backend.call(_rpc.failure_reasons(filter))

    async def history(self, job_id: UUID | str) -> JobHistory:
        """Return the timeline, the failed attempts and the log of a job.

        Raises:
            JobNotFound: No such job.
        """
        return await self._backend.call(_rpc.get_job_history(job_id))

    async def position(self, job_id: UUID | str) -> JobPosition:
        """Return the position of a job in its queue.

        Raises:
            JobNotFound: No such job, or it belongs to another user.
        """
        return await self._backend.call(_rpc.job_position(job_id))

    @overload
    async def explain(  # type: ignore[overload-overlap]
        self, job_id: UUID | str
    ) -> JobExplanation: ...

    @overload
    async def explain(self, job_id: Iterable[UUID | str]) -> builtins.list[JobExplanation]: ...

    async def explain(
        self, job_id: UUID | str | Iterable[UUID | str]
    ) -> JobExplanation | builtins.list[JobExplanation]:
        """Explain why a job does not run.

        A job that does not exist, or belongs to another user, has the reason ``unknown``.

        Args:
            job_id: The id of a job, or up to 1000 ids; the explanations have the same order.

        Raises:
            InvalidArgument: More than 1000 jobs.
        """
        if isinstance(job_id, str | UUID):
            return (await self._backend.call(_rpc.explain_jobs([job_id])))[0]
        return await self._backend.call(_rpc.explain_jobs(job_id))

    async def cancel(self, job_id: UUID | str) -> CancelRequest:
        """Cancel a pending job at once; ask the worker of a running job to stop it.

        Returns:
            The state of the job.

        Raises:
            JobNotFound: No such job, or it belongs to another user.
            JobFinished: The job has already completed or failed.
        """
        return await self._backend.call(_rpc.cancel_job(job_id))

    async def retry(self, job_id: UUID | str) -> Job:
        """Retry a failed or cancelled job. It gets one more attempt if it has used all of them.

        Returns:
            The job.

        Raises:
            JobNotFound: No such job.
            JobFinished: The job has completed.
            JobRunning: The job is running or parked.
            Conflict: Another job now has the unique key of this job.
        """
        await self._backend.call(_rpc.retry_job(job_id))
        return await self.get(job_id)

    def watch(
        self, job_id: UUID | str, *, timeout: float | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """Yield the states of a job as they change, until it has finished.

        The ``source`` of each event is ``socket``, ``snapshot`` or ``poll``; see `JobEvent`. If the
        job is not running and has not changed for a few seconds, its state is yielded again, with
        the reason why it does not run as ``explanation``, and again whenever the reason changes.

        Args:
            job_id: The id of the job.
            timeout: Seconds to wait for the end of the job; None: no limit.

        Raises:
            InvalidArgument: The timeout is not a number of seconds, or below zero.
            JobNotFound: No such job, or it belongs to another user.
            WaitTimeout: The job did not finish in time; the error says why. The job itself
                continues.
        """
        return follow(self._watcher, _rpc.get_job(job_id), timeout)

    async def result(self, job_id: UUID | str, *, timeout: float | None = None) -> Any:
        """Wait until a job has completed, and return its result.

        If the job does not run, the reason is logged.

        Args:
            job_id: The id of the job.
            timeout: Seconds to wait for the end of the job; None: no limit.

        Raises:
            InvalidArgument: The timeout is not a number of seconds, or below zero.
            JobNotFound: No such job, or it belongs to another user.
            JobFailed: The job failed after its last attempt.
            JobCancelled: The job was cancelled.
            WaitTimeout: The job did not finish in time; the error says why. The job itself
                continues.
        """
        job = await wait_for_job(self._watcher, _rpc.get_job(job_id), timeout)
        if job.status is JobStatus.FAILED:
            raise JobFailed(job)
        if job.status is JobStatus.CANCELLED:
            raise JobCancelled(job)
        return job.result
