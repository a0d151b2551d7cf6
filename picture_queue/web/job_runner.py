"""Runs of the jobs that are due, for the requests of services."""

import asyncio
from dataclasses import replace
from uuid import UUID

from picture_queue import _rpc
from picture_queue._async.client import AsyncPictureQueue
from picture_queue._log import Log
from picture_queue._realtime.follow import wait_for_job
from picture_queue.errors import WaitTimeout
from picture_queue.records import Job
from picture_queue.worker import DrainResult, Worker

_log = Log(__name__)

_GRACE_SHARE = 0.4  # maximum share of the time, at its end, in which no job starts
_DRAIN_INTERVAL = 1.0  # seconds between two runs for one job, which may wait for a time or an event


class JobRunner:
    """A worker that runs the due jobs for requests. It makes one run at a time.

    A run goes on if the client closes the connection, since pg_net waits only a few seconds.

    Args:
        client: A client with a service key.
        worker: The worker, which is not running; None: another worker of this process runs all the
            time, and runs all jobs.
        seconds: Seconds that one run takes. Jobs start in the first part of it. Jobs that run at
            its end are released, which does not count as an attempt.
    """

    def __init__(self, client: AsyncPictureQueue, worker: Worker | None, seconds: float) -> None:
        self._client = client
        self._worker = worker
        self._seconds = seconds
        self._run: asyncio.Task[DrainResult] | None = None

    async def run_due(self) -> DrainResult:
        """Run the jobs that are due, and return the number of attempts.

        Both numbers are 0 if another request or another worker of this process runs them already.

        Raises:
            PictureQueueError: The project does not answer, or refuses a call.
        """
        if self._worker is None or self._is_running:
            return DrainResult()
        return await asyncio.shield(self._start(self._worker, self._seconds))

    async def run_until_finished(self, job_id: UUID) -> Job:
        """Run the jobs that are due until a job has finished, and return the job.

        The order and the limits of the queues hold, so other jobs may run before it. The job may
        also be unfinished at the end of the time, for example if it waits for an event.

        Raises:
            JobNotFound: No such job.
            PictureQueueError: The project does not answer, or refuses a call.
        """
        job = await self._client.jobs.get(job_id)
        if job.finished:
            return job
        call = wait_for_job(self._client._watcher, _rpc.get_job(job_id), self._seconds)
        end = asyncio.create_task(call)
        try:
            if self._worker is not None:
                await self._run_until(end, self._worker)
            return await end
        except WaitTimeout:
            return await self._client.jobs.get(job_id)
        finally:
            end.cancel()

    async def _run_until(self, end: "asyncio.Task[Job]", worker: Worker) -> None:
        """Run the due jobs again and again until the time is over or the task has ended."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        own_run = None
        try:
            while not end.done() and (left := deadline - loop.time()) > _DRAIN_INTERVAL:
                run = self._run
                if run is None or run.done():
                    run = own_run = self._start(worker, left)
                await asyncio.wait({end, run}, return_when=asyncio.FIRST_COMPLETED)
                if not end.done():
                    run.result()  # raises its error
                    await asyncio.wait({end}, timeout=_DRAIN_INTERVAL)
        finally:
            # Other jobs are left to the next call, unless another request has started the run.
            if own_run is not None and not own_run.done():
                await worker.stop()

    async def aclose(self) -> None:
        """End the run; its jobs are released."""
        if self._run is not None and self._worker is not None and not self._run.done():
            await self._worker.stop()
            await asyncio.wait({self._run})

    @property
    def _is_running(self) -> bool:
        return self._run is not None and not self._run.done()

    def _start(self, worker: Worker, seconds: float) -> "asyncio.Task[DrainResult]":
        task = asyncio.create_task(_drain(worker, seconds), name="picture-queue run")
        task.add_done_callback(_log_failure)
        self._run = task
        return task


async def _drain(worker: Worker, seconds: float) -> DrainResult:
    settings = worker.settings
    grace = min(settings.shutdown_grace, seconds * _GRACE_SHARE)
    worker.settings = replace(settings, shutdown_grace=grace)
    try:
        return await worker.drain(time_limit=seconds - grace)
    finally:
        worker.settings = settings


def _log_failure(task: "asyncio.Task[DrainResult]") -> None:
    """Log the error of a run, also if its request has ended."""
    if not task.cancelled() and task.exception() is not None:
        _log.error("The due jobs could not be run: %s", task.exception())
