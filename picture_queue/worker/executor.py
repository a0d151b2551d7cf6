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
from picture_queue._log import Lines, Log
from picture_queue._rpc import Rpc
from picture_queue._runtime.tasks import HandlerTask, current_handler
from picture_queue._runtime.threads import run_in_thread
from picture_queue._text import clean_line, describe_error, traceback_of
from picture_queue.records import ClaimedJob
from picture_queue.worker import verdicts
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.context import JobContext, SyncJobContext
from picture_queue.worker.executors import RemoteCall
from picture_queue.worker.outcomes import Cancelled, Failed, Outcome, Parked, Released, Snoozed
from picture_queue.worker.registry import Handler

_log = Log(__name__)
#: A separate logger, so that a program can show the lines about outcomes without tracebacks.
_tracebacks = Log(f"{__name__}.tracebacks")

#: Seconds a stopped async handler gets to clean up before the attempt ends without it.
CLEANUP_TIMEOUT = 25.0
#: Seconds between the end of a call that reports progress and the start of the next.
PROGRESS_INTERVAL = 0.25
#: Seconds from a log line to the call that sends it, together with later lines.
LOG_INTERVAL = 1.0
#: Number of waiting lines that are sent at once.
LOG_BATCH = 50
#: Maximum number of unsent lines of a job. The database keeps the same number of lines.
MAX_LOG_LINES = 200

T = TypeVar("T")

_AnyContext = JobContext | SyncJobContext


class StopReason(enum.Enum):
    """Reason to stop an attempt."""

    TIMEOUT = enum.auto()
    CANCEL = enum.auto()
    SHUTDOWN = enum.auto()
    LOST = enum.auto()  # the lease has ended, so the database would refuse the outcome


class AttemptListener(Protocol):
    """The part of a worker that takes the outcomes of attempts and makes their calls."""

    def on_outcome(self, attempt: "Attempt") -> None:
        """Process the outcome of an attempt."""

    def on_end(self, attempt: "Attempt") -> None:
        """Free the slot after the handler has ended. Called after `on_outcome`."""

    async def run_remotely(
        self, attempt: "Attempt", handler: Handler, on_call: Callable[[RemoteCall], None]
    ) -> Outcome:
        """Run the handler in its executor; see `Executors.run`."""

    async def send(self, attempt: "Attempt", call: Rpc[T], name: str) -> T | None:
        """Make a call that writes the progress or the log.

        Args:
            attempt: The attempt.
            call: The call.
            name: ``progress`` or ``log``, for messages.

        Returns:
            The result of the call; None if it fails.
        """


class Attempt:
    """One attempt: the handler, its timeout, and the requests to stop it.

    An attempt gets one outcome, and ends when its handler has ended. A thread cannot be stopped,
    and a coroutine can ignore its cancellation. Such an attempt gets its outcome before it ends,
    and its slot stays taken until then.

    Args:
        handler: The handler of its job type.
        listener: Called when the attempt has its outcome and when it has ended.

    Attributes:
        has_outcome: True once the outcome is known, or the lease was lost.
        outcome: The outcome; None before it is known, and afterwards if the lease was lost.
        duration: Seconds until the outcome was known.
        stop_reason: The reason for which the attempt was stopped; None if it was not.
        cancel_requested: True once the cancellation of the job was requested.
        shutdown_requested: True once the worker stops.
        exception: The exception of the handler, for hooks; None if there was none.
    """

    def __init__(self, handler: Handler, job: ClaimedJob, listener: AttemptListener) -> None:
        timeout = job.timeout_seconds  # may raise, so read it before the handler starts
        self.job = job
        self.has_outcome = False
        self.outcome: Outcome | None = None
        self.duration = 0.0
        self.stop_reason: StopReason | None = None
        self.cancel_requested = job.cancel_requested
        self.shutdown_requested = False
        self.exception: BaseException | None = None
        self._handler = handler
        self._listener = listener
        # Created on first use, since most handlers use neither.
        self._progress: BatchSender[tuple[int, str | None]] | None = None
        self._log: BatchSender[dict[str, Any]] | None = None
        self._remote: RemoteCall | None = None  # the call of the handler in its executor
        self._returned: Outcome | None = None  # the outcome that the handler returned or raised
        self._began = time.monotonic()
        loop = asyncio.get_running_loop()
        # Created directly: an eager task factory of the loop would run the handler at once.
        self._task = HandlerTask(self._run(), loop=loop, name=f"{job.job_type} {job.id_text}")
        self._task.add_done_callback(self._on_done)
        # The timer of the timeout is started in a later callback. The smallest jobs have ended by
        # then, and a timer would add 25 % to their time. After a stop, `_timer` is the timer that
        # limits the cleanup of the handler.
        self._timer: asyncio.Handle = loop.call_soon(self._start_timer, timeout)

    @property
    def progress(self) -> BatchSender[tuple[int, str | None]]:
        """Sender of the progress; a newer value replaces one that waits to be sent."""
        if self._progress is None:
            self._progress = BatchSender(
                self._send_progress, max_waiting=1, interval=PROGRESS_INTERVAL
            )
        return self._progress

    @property
    def log(self) -> BatchSender[dict[str, Any]]:
        """Sender of log lines. It needs the lease, which the report of the outcome ends."""
        if self._log is None:
            self._log = BatchSender(
                self._send_log, MAX_LOG_LINES, gather_time=LOG_INTERVAL, batch_size=LOG_BATCH
            )
        return self._log

    @property
    def state(self) -> Any:
        """The value of the lifespan of the worker."""
        return self._handler.state

    @property
    def has_unsent_lines(self) -> bool:
        """True while log lines wait to be sent or are being sent."""
        return self._log is not None and self._log.has_unsent

    @property
    def ended(self) -> bool:
        """True once the handler has ended."""
        return self._task.done()

    def stop(self, reason: StopReason) -> None:
        """Cancel an async handler, or give up a plain function at once.

        An async handler gets `CLEANUP_TIMEOUT` seconds to end. Only the first reason counts, but a
        lost lease replaces it.
        """
        if self.has_outcome:
            return
        if reason is StopReason.CANCEL:
            if self.cancel_requested:
                return  # the handler has been told already, and may be undoing its work
            self.cancel_requested = True
        if self.stop_reason is not None:
            if reason is StopReason.LOST:
                self.stop_reason = reason
            return
        self.stop_reason = reason
        if self._remote is not None:
            self._remote.stop(is_cancel=reason is StopReason.CANCEL)
        if not self._handler.signature.is_async:
            self.give_up()
            return
        self._timer.cancel()
        self._timer = self._task.get_loop().call_later(CLEANUP_TIMEOUT, self.give_up)
        self._task.cancel_from_outside()

    def request_shutdown(self) -> None:
        """Tell the handler that the worker stops."""
        self.shutdown_requested = True
        if self._remote is not None:
            self._remote.request_shutdown()

    def give_up(self) -> None:
        """Set the outcome of a stopped attempt without waiting for its handler."""
        is_async = self._handler.signature.is_async
        if not self.has_outcome:
            self._set_outcome(self._outcome_of_stop())
            if is_async:
                _log.warning(
                    "The handler of job %s has not stopped and still runs", self.job.id_text
                )
        if is_async and self.shutdown_requested and not self.ended:
            # `asyncio.run` ends only after all tasks have ended. This task ignores its
            # cancellation, or waits for a task that ignores it.
            self._task.abandon()

    async def _send_progress(self, values: list[tuple[int, str | None]]) -> None:
        call = _rpc.report_progress(self.job.id, self.job.lease_id, *values[-1])
        if await self._listener.send(self, call, "progress"):
            self.stop(StopReason.CANCEL)

    async def _send_log(self, lines: list[dict[str, Any]]) -> None:
        call = _rpc.log_job(self.job.id, self.job.lease_id, lines)
        await self._listener.send(self, call, "log")

    def _start_timer(self, timeout: float) -> None:
        if not self.ended:
            seconds = self._began + timeout - time.monotonic()
            self._timer = self._task.get_loop().call_later(seconds, self.stop, StopReason.TIMEOUT)

    async def _run(self) -> None:
        """Run the handler. No exception of the handler may leave this coroutine.

        A SystemExit or KeyboardInterrupt would stop the event loop, and with any other exception
        the outcome would be lost.
        """
        pid = os.getpid()
        current_handler.set(self._task)
        try:
            outcome = await self._call_handler()
        except BaseException as error:
            outcome = self._outcome_of_error(error)
        if os.getpid() != pid:
            # The handler forked, and this is the child. It shares the sockets of the event loop,
            # and would continue as a second worker of the same jobs.
            _log.error("The handler of job %s returned in a fork, which is ended", self.job.id_text)
            os._exit(1)
        # The outcome is not returned, since a return value is lost if the handler cancels its own
        # task in the last step.
        self._returned = outcome
        if self._progress is not None and isinstance(outcome, Snoozed | Parked):
            with contextlib.suppress(asyncio.CancelledError):
                await self._progress.flush()  # the job shows its progress while it waits
        current_handler.set(None)  # breaks a reference cycle of the task and its context

    async def _call_handler(self) -> Outcome | None:
        handler, signature = self._handler, self._handler.signature
        context_class = JobContext if signature.is_async else SyncJobContext
        if handler.hooks is None or not handler.hooks.wrappers:
            context = context_class(self) if signature.takes_context else None
            return await self._call_function(handler, context)
        context = context_class(self)
        async with handler.hooks.wrap(context):
            return await self._call_function(handler, context)

    async def _call_function(self, handler: Handler, context: _AnyContext | None) -> Outcome | None:
        signature = handler.signature
        if handler.executor is not None:
            return await self._listener.run_remotely(self, handler, self._set_remote)
        if not signature.is_async:
            return await self._run_in_thread(lambda: handler.call(self.job.payload, context))
        value = handler.call(self.job.payload, context)
        # A wrapper of an async function may return a plain value.
        if inspect.isawaitable(value):
            value = await value
        if is_large(value):
            # Writing a large value as JSON can take seconds, which must not block the event loop.
            return await self._run_in_thread(lambda: value)
        return verdicts.from_value(value, self.job.queue)

    def _set_remote(self, call: RemoteCall) -> None:
        self._remote = call

    def _run_in_thread(self, call: Callable[[], object]) -> asyncio.Future[Outcome | None]:
        """Call a function in a separate thread, and return the outcome of its value."""

        def run() -> Outcome | None:
            try:
                return verdicts.from_value(call(), self.job.queue)
            except BaseException as error:
                return self._outcome_of_error(error)

        return run_in_thread(self._task.get_name(), run)

    def _outcome_of_error(self, error: BaseException) -> Outcome | None:
        """Return the outcome of a handler that raised; after a stop, only a verdict counts."""
        if self._handler.hooks is not None and self._handler.hooks.needs_exceptions:
            self.exception = error
        error_class = type(verdicts.cause_of(error))
        if issubclass(error_class, asyncio.CancelledError):
            return self._outcome_of_stop(error)
        if self.stop_reason is None or issubclass(error_class, verdicts.Verdict):
            return verdicts.from_error(error, self.job.queue)
        _log.info(
            "The handler of job %s failed while it was stopped: %s%s",
            self.job.id_text,
            clean_line(describe_error(error)),
            Lines(traceback_of(error) or ""),
        )
        return self._outcome_of_stop(error)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        try:
            if not self.has_outcome:
                # `_returned` is None if the task was cancelled before its first step.
                self._set_outcome(self._returned or self._outcome_of_stop())
        finally:
            self._listener.on_end(self)

    def _set_outcome(self, outcome: Outcome | None) -> None:
        self._timer.cancel()
        if self._progress is not None:
            self._progress.drop()
        self.has_outcome = True
        self.duration = time.monotonic() - self._began
        self.outcome = None if self.stop_reason is StopReason.LOST else outcome
        if self.outcome is None and self._log is not None:
            self._log.drop()
        self._listener.on_outcome(self)
        if self.outcome is None:
            log_outcome(self.job, None, self.duration)

    def _outcome_of_stop(self, error: BaseException | None = None) -> Outcome | None:
        """Return the outcome that the reason of the stop asks for; None if the lease is lost."""
        match self.stop_reason:
            case StopReason.TIMEOUT:
                # The traceback of a cancellation shows what the handler waited for.
                text = f"TimeoutError: the job did not end within {self.job.timeout_seconds:g} s"
                return Failed(text, traceback_of(error))
            case StopReason.CANCEL:
                return Cancelled()
            case StopReason.SHUTDOWN:
                return Released()
            case StopReason.LOST:
                return None
            case None if self.shutdown_requested:  # the handler read the flag and stopped itself
                return Released()
            case None:  # the handler cancelled one of its tasks and did not catch the exception
                return Failed("CancelledError: the handler cancelled itself", traceback_of(error))


def log_outcome(
    job: ClaimedJob,
    outcome: Outcome | None,
    seconds: float,
    status: str | None = None,
    worker: str | None = None,
) -> None:
    """Log the end of an attempt, after the database has answered or the lease was lost.

    Args:
        outcome: The outcome as it was written; None: the lease was lost.
        seconds: Duration of the attempt.
        status: State of the job afterwards, which can differ from the outcome.
        worker: Name of the worker.
    """
    name = "lost its lease" if outcome is None else outcome.name
    level, attempt_suffix, reason, detail = logging.INFO, "", None, None
    if isinstance(outcome, Failed):
        level = logging.ERROR if status == "failed" else logging.WARNING
        attempt_suffix = f" of {job.max_attempts}" if outcome.retryable else ", for good"
        reason, detail = outcome.error, outcome.detail
    elif isinstance(outcome, Snoozed) and outcome.detail is not None:
        # The handler gave a reason, or raised an exception that does not count as an attempt. Warn,
        # since the job may be snoozed again and again without end.
        level, reason = logging.WARNING, outcome.detail
    if status == "failed" and not isinstance(outcome, Failed):
        name, level, attempt_suffix = status, logging.ERROR, ", for good"
        reason = "the database refused its result; the error of the job has the reason"
    elif status == "cancelled":  # also if the handler returned another outcome
        name = status
    if _log.isEnabledFor(level):
        _log.log(
            level,
            "Job %s (%s) %s, attempt %d%s%s (%.3f s)",
            *(job.id_text, job.job_type, name, job.attempt, attempt_suffix),
            f": {reason}" if reason else "",
            seconds,
            extra={
                "job": {
                    "job_id": job.id_text,
                    "job_type": job.job_type,
                    "queue": job.queue,
                    "worker": worker,
                    "attempt": job.attempt,
                    "max_attempts": job.max_attempts,
                    "outcome": name,
                    "status": status,
                    "seconds": round(seconds, 3),
                    "error": reason,
                    "traceback": detail,
                }
            },
        )
    if detail:
        _tracebacks.info("The traceback of job %s:%s", job.id_text, Lines(detail))
