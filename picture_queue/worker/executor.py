"""Runs one attempt of a job to its outcome. Writes nothing: what comes of it is a value."""

import asyncio
import enum
import logging
import time
from collections.abc import Callable

from picture_queue.records import ClaimedJob
from picture_queue.worker import joblog, progress, verdicts
from picture_queue.worker._threads import Raised, in_thread
from picture_queue.worker.context import Flags, JobContext, SyncJobContext
from picture_queue.worker.outcomes import (
    Cancelled,
    Failed,
    Outcome,
    Parked,
    Released,
    Snoozed,
    traceback_of,
)
from picture_queue.worker.registry import Handler

_log = logging.getLogger(__name__)

#: Seconds a stopped async handler gets to clean up before the attempt ends without it.
CLEANUP = 25.0


class Stop(enum.Enum):
    """Why an attempt is stopped."""

    TIMEOUT = enum.auto()
    CANCEL = enum.auto()
    SHUTDOWN = enum.auto()
    LOST = enum.auto()  # the lease is gone: whatever comes of it is dropped


class Attempt:
    """One attempt: the handler, its deadline, and what can stop it.

    It *settles* once, with an outcome, and *ends* once, when nothing of the handler runs any more.
    The two differ for a thread, which cannot be stopped, and for a coroutine that ignores its
    cancellation: the attempt settles and its slot stays taken.

    Args:
        handler: What to run.
        job: What to run it for.
        send_progress: Writes the progress of this job.
        send_log: Writes lines into its log.
        on_settled: Called with the attempt.
        on_ended: Called with the attempt, after it settled.

    Attributes:
        outcome: None until it settled, and for good when the lease was lost.
        duration: Seconds until it settled.
        log: What the handler wrote; the lease that fences it ends with the report of the outcome.
    """

    __slots__ = (
        "_began",
        "_flags",
        "_handler",
        "_on_ended",
        "_on_settled",
        "_progress",
        "_stop",
        "_task",
        "_timer",
        "duration",
        "job",
        "log",
        "outcome",
        "settled",
    )

    def __init__(
        self,
        handler: Handler,
        job: ClaimedJob,
        send_progress: progress.Send,
        send_log: joblog.Send,
        on_settled: Callable[["Attempt"], None],
        on_ended: Callable[["Attempt"], None],
    ) -> None:
        self.job = job
        self.settled = False
        self.outcome: Outcome | None = None
        self.duration = 0.0
        self._handler = handler
        self._flags = Flags(cancel=job.cancel_requested_at is not None)
        self._progress = progress.Progress(send_progress)
        self.log = joblog.JobLog(send_log)
        self._on_settled = on_settled
        self._on_ended = on_ended
        self._stop: Stop | None = None
        self._began = time.monotonic()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(job.timeout_seconds, self.stop, Stop.TIMEOUT)
        self._task = loop.create_task(self._run(), name=f"{job.job_type} {job.id}")
        self._task.add_done_callback(self._done)

    @property
    def ended(self) -> bool:
        """Whether nothing of the handler runs any more."""
        return self._task.done()

    def stop(self, reason: Stop) -> None:
        """Stops the handler. The first reason holds, but a lost lease outweighs every other."""
        if self.settled:
            return
        if reason is Stop.CANCEL:
            if self._flags.cancel:
                return  # it knows, and may be busy undoing
            self._flags.cancel = True
        stopping = self._stop is not None
        if reason is Stop.LOST or not stopping:
            self._stop = reason
        if stopping:
            return
        self._timer.cancel()
        if not self._handler.shape.is_async:
            self.give_up()
            return
        self._task.cancel()
        self._timer = self._task.get_loop().call_later(CLEANUP, self.give_up)

    def announce_shutdown(self) -> None:
        """Lets the handler know that the worker stops; it goes on."""
        self._flags.shutdown = True

    def give_up(self) -> None:
        """Settles a stopped attempt without waiting for its handler."""
        if not self.settled:
            if self._handler.shape.is_async:
                _log.warning("The handler of job %s has not stopped and goes on", self.job.id)
            self._settle(self._stopped())

    async def _run(self) -> Outcome | None:
        outcome: Outcome | None
        try:
            if self._handler.shape.is_async:
                outcome = verdicts.from_value(await self._call(), self.job.queue)
            else:
                outcome = await self._call_in_thread()
        # A handler that calls sys.exit() ends its job, not the worker.
        except (Exception, SystemExit) as error:
            outcome = self._failed(error)
        if isinstance(outcome, Snoozed | Parked):
            await self._progress.flush()  # the job shows it while it waits
        return outcome

    async def _call(self) -> object:
        handler, job = self._handler, self.job
        context = JobContext(job, self._flags, self._progress, self.log)
        return await handler.function(*handler.arguments(job.payload, context))

    async def _call_in_thread(self) -> Outcome | None:
        handler, job = self._handler, self.job
        context = SyncJobContext(job, self._flags, self._progress, self.log)
        arguments = handler.arguments(job.payload, context)
        value = await in_thread(f"{job.job_type} {job.id}", handler.function, *arguments)
        if isinstance(value, Raised):
            return self._failed(value.error)
        return verdicts.from_value(value, job.queue)

    def _failed(self, error: BaseException) -> Outcome | None:
        is_verdict = isinstance(verdicts.cause_of(error), verdicts.Verdict)
        if self._stop is not None and not is_verdict:
            _log.info(
                "The handler of job %s failed while it was stopped", self.job.id, exc_info=error
            )
            return self._stopped(error)
        outcome = verdicts.from_error(error, self.job.queue)
        # Of a failure the outcome says more than a log could, and a verdict speaks for itself.
        if isinstance(outcome, Snoozed) and not is_verdict:
            _log.info("Job %s waits %g s: %s", self.job.id, outcome.delay, error)
        return outcome

    def _done(self, task: asyncio.Task[Outcome | None]) -> None:
        if not self.settled:
            self._settle(self._stopped() if task.cancelled() else task.result())
        self._on_ended(self)

    def _settle(self, outcome: Outcome | None) -> None:
        self._timer.cancel()
        self._progress.drop()
        self._flags.stopped = True
        self.settled = True
        self.duration = time.monotonic() - self._began
        self.outcome = None if self._stop is Stop.LOST else outcome
        if self.outcome is None:
            self.log.drop()
        self._on_settled(self)

    def _stopped(self, error: BaseException | None = None) -> Outcome | None:
        detail = traceback_of(error) if error else None
        match self._stop:
            case Stop.TIMEOUT:
                limit = f"{self.job.timeout_seconds:g}"
                return Failed(f"TimeoutError: the job did not end within {limit} s", detail)
            case Stop.CANCEL:
                return Cancelled()
            case Stop.SHUTDOWN:
                return Released()
            case Stop.LOST:
                return None
            case None:  # the handler let a cancellation of its own escape
                return Failed("CancelledError: the handler cancelled itself", detail)
