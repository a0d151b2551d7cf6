"""Run one attempt of a job, up to its outcome."""

import asyncio
import contextlib
import enum
import inspect
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from picture_queue import _rpc
from picture_queue._json import is_large
from picture_queue._log import Log
from picture_queue._rpc import Rpc
from picture_queue._runtime.tasks import HandlerTask, current_handler
from picture_queue._runtime.threads import in_thread
from picture_queue._text import clean, describe, traceback_of
from picture_queue.records import ClaimedJob
from picture_queue.worker import verdicts
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.context import JobContext, SyncJobContext
from picture_queue.worker.outcomes import Cancelled, Failed, Outcome, Parked, Released, Snoozed
from picture_queue.worker.registry import Handler

_log = Log(__name__)
#: A separate logger, so that a program can show the lines about outcomes without tracebacks.
_tracebacks = Log(f"{__name__}.tracebacks")

#: Seconds a stopped async handler gets to clean up before the attempt ends without it.
CLEANUP = 25.0
#: Seconds between the end of a report of progress and the start of the next.
PROGRESS_INTERVAL = 0.25
#: Seconds between a line of a log and the call that sends it with the lines that followed.
LOG_INTERVAL = 1.0
#: Lines that are sent without that wait.
LOG_BATCH = 50
#: Lines kept of those that could not be sent yet: the database keeps no more of a job either.
LOG_KEPT = 200

T = TypeVar("T")


class Stop(enum.Enum):
    """Reason to stop an attempt."""

    TIMEOUT = enum.auto()
    CANCEL = enum.auto()
    SHUTDOWN = enum.auto()
    LOST = enum.auto()  # the lease is gone: the outcome is dropped


class AttemptListener(Protocol):
    """The part of a worker that takes the outcomes of attempts and makes their calls."""

    def on_outcome(self, attempt: "Attempt") -> None:
        """Take the outcome."""

    def on_end(self, attempt: "Attempt") -> None:
        """Free the slot: the handler has ended. Called after `on_outcome`."""

    async def send(self, attempt: "Attempt", call: Rpc[T], name: str) -> T | None:
        """Make a call that writes something of that name; return None if it fails."""


class Attempt:
    """One attempt: the handler, its timeout, and the requests to stop it.

    An attempt gets its outcome once, and ends once, when its handler has ended. The outcome comes
    first for a thread, which cannot be stopped, and for a coroutine that ignores its cancellation:
    the slot stays taken until the handler ends.

    Args:
        handler: The handler of its job type.
        listener: Called when the attempt has its outcome and when it has ended.

    Attributes:
        has_outcome: True once the outcome is known, or the lease was lost.
        outcome: The outcome; None before it is known, and afterwards if the lease was lost.
        duration: Seconds until the outcome was known.
        stop_reason: The reason for which it was stopped, if it was.
        cancel_requested: True once the job's cancel was requested.
        shutdown_requested: True once the worker stops.
    """

    def __init__(self, handler: Handler, job: ClaimedJob, listener: AttemptListener) -> None:
        timeout = job.timeout_seconds  # it may raise, before the handler is called
        self.job = job
        self.has_outcome = False
        self.outcome: Outcome | None = None
        self.duration = 0.0
        self.stop_reason: Stop | None = None
        self.cancel_requested = job.cancel_requested
        self.shutdown_requested = False
        self._handler = handler
        self._listener = listener
        # Most handlers use neither of the two.
        self._progress: BatchSender[tuple[int, str | None]] | None = None
        self._log: BatchSender[dict[str, Any]] | None = None
        self._returned: Outcome | None = None  # by the handler
        self._began = time.monotonic()
        loop = asyncio.get_running_loop()
        # Made directly: an eager task factory of the loop would run the handler here and now.
        self._task = HandlerTask(self._run(), loop=loop, name=f"{job.job_type} {job.key}")
        self._task.add_done_callback(self._done)
        # One callback later: the smallest jobs have ended by then, and a timer takes 25 % of their
        # time. After a stop this is the timer of the cleanup.
        self._timer: asyncio.Handle = loop.call_soon(self._start_timer, timeout)

    @property
    def progress(self) -> BatchSender[tuple[int, str | None]]:
        """Sender of the progress; a newer value replaces one that waits to be sent."""
        if self._progress is None:
            self._progress = BatchSender(self._send_progress, keep=1, interval=PROGRESS_INTERVAL)
        return self._progress

    @property
    def log(self) -> BatchSender[dict[str, Any]]:
        """Sender of log lines; the lease that fences them ends with the report of the outcome."""
        if self._log is None:
            self._log = BatchSender(self._send_log, LOG_KEPT, gather=LOG_INTERVAL, batch=LOG_BATCH)
        return self._log

    @property
    def has_unsent_lines(self) -> bool:
        """True while lines of its log are on their way, or wait to be."""
        return self._log is not None and self._log.has_unsent

    @property
    def ended(self) -> bool:
        """True once the handler has ended."""
        return self._task.done()

    def stop(self, reason: Stop) -> None:
        """Cancel an async handler, which gets `CLEANUP` seconds; give up a plain function at once.

        The first reason holds, but a lost lease outweighs every other.
        """
        if self.has_outcome:
            return
        if reason is Stop.CANCEL:
            if self.cancel_requested:
                return  # the handler knows, and may be undoing its work
            self.cancel_requested = True
        if self.stop_reason is not None:
            if reason is Stop.LOST:
                self.stop_reason = reason
            return
        self.stop_reason = reason
        if not self._handler.shape.is_async:
            self.give_up()
            return
        self._timer.cancel()
        self._timer = self._task.get_loop().call_later(CLEANUP, self.give_up)
        self._task.cancel_from_outside()

    def give_up(self) -> None:
        """Set the outcome of a stopped attempt without waiting for its handler."""
        is_async = self._handler.shape.is_async
        if not self.has_outcome:
            self._set_outcome(self._outcome_of_stop())
            if is_async:
                _log.warning("The handler of job %s has not stopped and still runs", self.job.key)
        if is_async and self.shutdown_requested and not self.ended:
            # The end of an event loop waits for all tasks, and this one ignores its cancellation,
            # or waits for one that does.
            self._task.abandon()

    async def _send_progress(self, values: list[tuple[int, str | None]]) -> None:
        call = _rpc.report_progress(self.job.id, self.job.lease_id, *values[-1])
        if await self._listener.send(self, call, "progress"):
            self.stop(Stop.CANCEL)

    async def _send_log(self, lines: list[dict[str, Any]]) -> None:
        call = _rpc.log_job(self.job.id, self.job.lease_id, lines)
        await self._listener.send(self, call, "log")

    def _start_timer(self, timeout: float) -> None:
        if not self.ended:
            seconds = self._began + timeout - time.monotonic()
            self._timer = self._task.get_loop().call_later(seconds, self.stop, Stop.TIMEOUT)

    async def _run(self) -> None:
        """Run the handler. Nothing that it raises may leave this coroutine.

        The event loop itself stops for a SystemExit or KeyboardInterrupt, and for other exceptions
        the outcome would be lost.
        """
        pid = os.getpid()
        current_handler.set(self._task)
        try:
            outcome = await self._call()
        except BaseException as error:
            outcome = self._outcome_of_error(error)
        if os.getpid() != pid:
            # The handler forked, and this is the child. It shares the sockets of the event loop,
            # and would continue as a second worker of the same jobs.
            _log.error("The handler of job %s returned in a fork, which is ended", self.job.key)
            os._exit(1)
        # Not by `return`: that is lost if the handler cancels its task in the last step.
        self._returned = outcome
        if self._progress is not None and isinstance(outcome, Snoozed | Parked):
            with contextlib.suppress(asyncio.CancelledError):
                await self._progress.flush()  # the job shows it while it waits
        current_handler.set(None)  # the task keeps its context, which would keep the task

    async def _call(self) -> Outcome | None:
        handler, shape = self._handler, self._handler.shape
        kind = JobContext if shape.is_async else SyncJobContext
        context = kind(self) if shape.takes_context else None
        if not shape.is_async:
            return await self._in_thread(lambda: handler.call(self.job.payload, context))
        value = handler.call(self.job.payload, context)
        # What wraps an async function may return at once.
        if inspect.isawaitable(value):
            value = await value
        if is_large(value):
            # To write it as JSON can take seconds, and must not block the event loop.
            return await self._in_thread(lambda: value)
        return verdicts.from_value(value, self.job.queue)

    def _in_thread(self, call: Callable[[], object]) -> asyncio.Future[Outcome | None]:
        """Call a function in a separate thread, and return the outcome for its value."""

        def run() -> Outcome | None:
            try:
                return verdicts.from_value(call(), self.job.queue)
            except BaseException as error:
                return self._outcome_of_error(error)

        return in_thread(self._task.get_name(), run)

    def _outcome_of_error(self, error: BaseException) -> Outcome | None:
        """Return the outcome of a handler that raised; after a stop only a verdict outweighs it."""
        kind = type(verdicts.cause_of(error))
        if issubclass(kind, asyncio.CancelledError):
            return self._outcome_of_stop(error)
        if self.stop_reason is None or issubclass(kind, verdicts.Verdict):
            return verdicts.from_error(error, self.job.queue)
        _log.info(
            "The handler of job %s failed while it was stopped: %s\n%s",
            self.job.key,
            clean(describe(error)),
            traceback_of(error),
        )
        return self._outcome_of_stop(error)

    def _done(self, task: asyncio.Task[None]) -> None:
        try:
            if not self.has_outcome:
                # It returned nothing if it was cancelled before its first step.
                self._set_outcome(self._returned or self._outcome_of_stop())
        finally:
            self._listener.on_end(self)

    def _set_outcome(self, outcome: Outcome | None) -> None:
        self._timer.cancel()
        if self._progress is not None:
            self._progress.drop()
        self.has_outcome = True
        self.duration = time.monotonic() - self._began
        self.outcome = None if self.stop_reason is Stop.LOST else outcome
        if self.outcome is None and self._log is not None:
            self._log.drop()
        self._listener.on_outcome(self)
        if self.outcome is None:
            log_outcome(self.job, None, self.duration)

    def _outcome_of_stop(self, error: BaseException | None = None) -> Outcome | None:
        """Return the outcome that the reason of the stop asks for; None if the lease is lost."""
        match self.stop_reason:
            case Stop.TIMEOUT:
                # The traceback of a cancellation shows what the handler waited for.
                text = f"TimeoutError: the job did not end within {self.job.timeout_seconds:g} s"
                return Failed(text, traceback_of(error))
            case Stop.CANCEL:
                return Cancelled()
            case Stop.SHUTDOWN:
                return Released()
            case Stop.LOST:
                return None
            case None if self.shutdown_requested:  # the handler saw it and stopped
                return Released()
            case None:  # the handler cancelled something itself and did not catch that
                return Failed("CancelledError: the handler cancelled itself", traceback_of(error))


def log_outcome(
    job: ClaimedJob, outcome: Outcome | None, seconds: float, status: str | None = None
) -> None:
    """Log the end of an attempt, once the database has it.

    Args:
        outcome: The outcome as it was written; None: the lease was lost.
        seconds: Duration of the attempt.
        status: State of the job afterwards, which can differ from the outcome.
    """
    name = "lost its lease" if outcome is None else outcome.name
    level, of, reason, detail = logging.INFO, "", None, None
    if isinstance(outcome, Failed):
        level = logging.ERROR if status == "failed" else logging.WARNING
        of = f" of {job.max_attempts}" if outcome.retryable else ", for good"
        reason, detail = outcome.error, outcome.detail
    elif isinstance(outcome, Snoozed) and outcome.detail is not None:
        # A reason was given, or the job is not at fault for the exception. It can recur for ever.
        level, reason = logging.WARNING, outcome.detail
    if status == "failed" and not isinstance(outcome, Failed):
        name, level, of = status, logging.ERROR, ", for good"
        reason = "the database refused its result; the error of the job has the reason"
    elif status == "cancelled":  # whatever the handler made of it
        name = status
    if _log.isEnabledFor(level):
        _log.log(
            level,
            "Job %s (%s) %s, attempt %d%s%s (%.3f s)",
            *(job.key, job.job_type, name, job.attempt, of),
            f": {reason}" if reason else "",
            seconds,
        )
    if detail:
        _tracebacks.info("The traceback of job %s:\n%s", job.key, detail)
