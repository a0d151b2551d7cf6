# Written by scripts/unasync.py from picture_queue/_async/jobs.py: edit that file.

"""Jobs: enqueue, read, steer, watch."""

import builtins
from collections.abc import Iterator, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from picture_queue import _rpc
from picture_queue._realtime.portal import Watcher, follow
from picture_queue._transport.postgrest_sync import Postgrest
from picture_queue.errors import JobCancelled, JobFailed
from picture_queue.records import CancelRequest, Enqueued, Job, JobEvent, JobStatus


class Jobs:
    """The jobs of a project: all of them with a service key, a user's own with theirs."""

    def __init__(self, project: Postgrest, watcher: Watcher) -> None:
        self._project = project
        self._watcher = watcher

    def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, JsonValue] | None = None,
        *,
        priority: int = 0,
        queue: str | None = None,
        scheduled_for: datetime | None = None,
        max_attempts: int | None = None,
        timeout: float | None = None,
        user_id: UUID | str | None = None,
        idempotency_key: str | None = None,
        job_id: UUID | str | None = None,
    ) -> Enqueued:
        """Writes a job and returns its id. Needs a service key.

        Args:
            job_type: Which handler runs it.
            payload: What the handler gets; a JSON object, 64 KiB by default.
            priority: Higher runs first.
            queue: Which queue; the job type's, then ``default``.
            scheduled_for: Not before this time; without a zone it is local time.
            max_attempts: Attempts before it fails; the job type's, the queue's, then 3.
            timeout: Longest run of one attempt, seconds.
            user_id: Whose it is: that user may read, watch and cancel it.
            idempotency_key: With the same key, type and owner the first job is returned.
            job_id: Its id, made by you; repeating the call returns the job that is there.

        Raises:
            InvalidArgument: Naming the field and the value.
            TooLarge: The payload is above the limit.
            Conflict: ``job_id`` is another job.
        """
        rpc = _rpc.enqueue_job(
            job_type,
            payload,
            priority=priority,
            queue=queue,
            scheduled_for=scheduled_for,
            max_attempts=max_attempts,
            timeout=timeout,
            user_id=user_id,
            idempotency_key=idempotency_key,
            job_id=job_id,
        )
        return self._project.call(rpc)

    def enqueue_many(self, jobs: Iterable[Mapping[str, Any]]) -> builtins.list[Enqueued]:
        """Writes many jobs in one call, all or none, and returns id and outcome of each.

        Args:
            jobs: The arguments of `enqueue` by name, ``job_type`` at least.

        Raises:
            InvalidArgument: Naming the position, the field and the value.
        """
        return self._project.call(_rpc.enqueue_jobs(list(jobs)))

    def get(self, job_id: UUID | str) -> Job:
        """Returns a job.

        Raises:
            JobNotFound: No such job, or not the caller's.
        """
        return self._project.call(_rpc.get_job(job_id))

    def list(
        self,
        *,
        queue: str | None = None,
        status: JobStatus | str | None = None,
        job_type: str | None = None,
        limit: int = 100,
        before_seq: int | None = None,
    ) -> builtins.list[Job]:
        """Returns jobs, newest first.

        Args:
            queue: Of this queue only.
            status: In this state only.
            job_type: Of this type only.
            limit: At most so many, 1000 at most.
            before_seq: The ``seq`` of the last job of the page before.
        """
        rpc = _rpc.list_jobs(
            queue=queue, status=status, job_type=job_type, limit=limit, before_seq=before_seq
        )
        return self._project.call(rpc)

    def cancel(self, job_id: UUID | str) -> CancelRequest:
        """Cancels a pending job at once, asks a running one to stop.

        Raises:
            JobNotFound: No such job, or not the caller's.
            JobFinished: It completed or failed already.
        """
        return self._project.call(_rpc.cancel_job(job_id))

    def retry(self, job_id: UUID | str) -> Job:
        """Makes a failed or cancelled job pending again, with one more attempt if none is left.

        Raises:
            JobNotFound: No such job.
            JobFinished: It is running, or completed.
        """
        self._project.call(_rpc.retry_job(job_id))
        return self.get(job_id)

    def watch(self, job_id: UUID | str, *, timeout: float | None = None) -> Iterator[JobEvent]:
        """Yields the job's states as they come, the terminal one last.

        Each event says where it was learnt: ``socket``, ``snapshot`` or ``poll``.

        Args:
            job_id: The job.
            timeout: Longest wait for the end, seconds; None waits as long as the job takes.

        Raises:
            JobNotFound: No such job, or not the caller's.
            WaitTimeout: It did not finish in time; the job itself goes on.
        """
        return follow(self._watcher, job_id, timeout)

    def result(self, job_id: UUID | str, *, timeout: float | None = None) -> Any:
        """Waits for the job and returns its result.

        Args:
            job_id: The job.
            timeout: Longest wait, seconds.

        Raises:
            JobFailed: It failed after its last attempt.
            JobCancelled: It was cancelled.
            WaitTimeout: It did not finish in time; the job itself goes on.
        """
        for _ in self.watch(job_id, timeout=timeout):
            pass
        job = self.get(job_id)
        if job.status is JobStatus.FAILED:
            raise JobFailed(job)
        if job.status is JobStatus.CANCELLED:
            raise JobCancelled(job)
        return job.result
