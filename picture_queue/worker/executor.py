"""Run one attempt of a job and return its outcome. Nothing is written here."""

import asyncio
import contextlib
import enum
import inspect
import logging
import os
import time
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

from picture_queue.records import ClaimedJob
from picture_queue.worker import verdicts
from picture_queue.worker._tasks import on_task
from picture_queue.worker._threads import Raised, hold_forever, in_thread
from picture_queue.worker.context import Flags, JobContext, SyncJobContext
from picture_queue.worker.joblog import JobLog, Line
from picture_queue.worker.outcomes import (
    Cancelled,
    Failed,
    Outcome,
    Parked,
    Released,
    Snoozed,
    clean,
    describe,
    traceback_of,
)
from picture_queue.worker.progress import Progress
from picture_queue.worker.registry import Handler

_log = logging.getLogger(__name__)
#: Apart from the lines about ends, so that a program can show one without the other.
_tracebacks = logging.getLogger(f"{__name__}.tracebacks")

#: Seconds a stopped async handler gets to clean up before the attempt ends without it.
CLEANUP = 25.0

#: Parts of a result that is written as JSON in the event loop, at most.
LARGE = 10_000


class Stop(enum.Enum):
    """Reason to stop an attempt."""

    TIMEOUT = enum.auto()
    CANCEL = enum.auto()
    SHUTDOWN = enum.auto()
    LOST = enum.auto()  # the lease is gone: the outcome is dropped


class AttemptListener(Protocol):
    """The part of a worker that is told of attempts, and sends what their handlers say."""

    def settled(self, attempt: "Attempt") -> None:
        """Take the outcome."""

    def ended(self, attempt: "Attempt") -> None:
        """Take the slot back, after `settled`: the handler has ended."""

    async def send_progress(self, attempt: "Attempt", percent: int, message: str | None) -> None:
        """Write the progress of its job; raises nothing."""

    async def send_log(self, attempt: "Attempt", lines: list[Line]) -> None:
        """Write lines into the log of its job; raises nothing."""


class Deadlines:
    """Stop attempts whose time is over, with one timer for all.

    A timer each would cost more than the rest of a small job. Attempts of one length end in the
    order they began, so only the first of each length is looked at.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._by_length: dict[float, dict[Attempt, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, attempt: "Attempt", seconds: float) -> None:
        """Give an attempt that begins now so many seconds."""
        due = self._loop.time() + seconds
        self._by_length.setdefault(seconds, {})[attempt] = due
        if self._timer is None or due < self._timer.when():
            self._wait_until(due)

    def drop(self, attempt: "Attempt") -> None:
        """Forget an attempt."""
        attempts = self._by_length.get(attempt.job.timeout_seconds)
        if attempts is not None:
            attempts.pop(attempt, None)

    def _wait_until(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for seconds, attempts in list(self._by_length.items()):
            late = []
            for attempt, due in attempts.items():
                if due > now:
                    break
                late.append(attempt)
            for attempt in late:
                del attempts[attempt]
                # In a callback of its own: what fails there keeps no other from its timeout.
                self._loop.call_soon(attempt.stop, Stop.TIMEOUT)
            if not attempts:
                del self._by_length[seconds]
        firsts = [next(iter(attempts.values())) for attempts in self._by_length.values()]
        if firsts:
            self._wait_until(min(firsts))


class Attempt:
    """One attempt: the handler, its deadline, and what can stop it.

    It *settles* once, with an outcome, and *ends* once, when its handler has ended.
    The two differ for a thread, which cannot be stopped, and for a coroutine that ignores its
    cancellation: the attempt settles and its slot stays taken.

    Args:
        handler: What to run.
        job: What to run it for.
        owner: Told when it has its outcome and when it has ended.
        deadlines: Stop it when its time is over.

    Attributes:
        job: What it is run for.
        settled: Whether it settled.
        outcome: None until it settled, and for good when the lease was lost.
        duration: Seconds until it settled.
    """

    __slots__ = (
        "_began",
        "_deadlines",
        "_flags",
        "_handler",
        "_log",
        "_owner",
        "_progress",
        "_result",
        "_stop",
        "_task",
        "_tasks",
        "_timer",
        "duration",
        "job",
        "outcome",
        "settled",
    )

    def __init__(
        self,
        handler: Handler,
        job: ClaimedJob,
        owner: AttemptListener,
        deadlines: Deadlines,
    ) -> None:
        self.job = job
        self.settled = False
        self.outcome: Outcome | None = None
        self.duration = 0.0
        self._handler = handler
        self._flags = Flags(cancel=job.cancel_requested)
        self._owner = owner
        self._deadlines = deadlines
        # Most handlers use neither of the two.
        self._progress: Progress | None = None
        self._log: JobLog | None = None
        self._stop: Stop | None = None
        self._tasks: WeakSet[asyncio.Future[Any]] | None = None  # that the handler started
        self._result: list[Outcome | None] = []  # empty until the handler has ended
        self._timer: asyncio.TimerHandle | None = None
        self._began = time.monotonic()
        deadlines.add(self, job.timeout_seconds)
        loop = asyncio.get_running_loop()
        # Not by the task factory of the loop: an eager one would run the handler here and now.
        self._task = asyncio.Task(self._run(), loop=loop, name=f"{job.job_type} {job.key}")
        self._task.add_done_callback(self._done)

    @property
    def flags(self) -> Flags:
        """Requests to the handler."""
        return self._flags

    @property
    def progress(self) -> Progress:
        """Progress that the handler reports."""
        if self._progress is None:
            self._progress = Progress(partial(self._owner.send_progress, self))
        return self._progress

    @property
    def log(self) -> JobLog:
        """Lines of the handler; the lease that fences them ends with the report of the outcome."""
        if self._log is None:
            self._log = JobLog(partial(self._owner.send_log, self))
        return self._log

    @property
    def has_unsent_lines(self) -> bool:
        """True while lines of its log are on their way, or wait to be."""
        return self._log is not None and self._log.waiting

    @property
    def ended(self) -> bool:
        """True once the handler has ended."""
        return self._task.done()

    def stop(self, reason: Stop) -> None:
        """Stop the handler. The first reason holds, but a lost lease outweighs every other."""
        if self.settled:
            return
        if reason is Stop.CANCEL:
            if self._flags.cancel:
                return  # it knows, and may be busy undoing
            self._flags.cancel = True
        self._flags.stop = True
        stopping = self._stop is not None
        if reason is Stop.LOST or not stopping:
            self._stop = reason
        if stopping:
            return
        self._deadlines.drop(self)
        if not self._handler.shape.is_async:
            self.give_up()
            return
        self._task.cancel()
        self._timer = self._task.get_loop().call_later(CLEANUP, self.give_up)

    def announce_shutdown(self) -> None:
        """Tell the handler that the worker stops; it goes on."""
        self._flags.shutdown = True

    def give_up(self) -> None:
        """Settle a stopped attempt without waiting for its handler."""
        is_async = self._handler.shape.is_async
        if not self.settled:
            self._settle(self._stopped())
            if is_async:
                _log.warning("The handler of job %s has not stopped and goes on", self.job.key)
        if is_async and self._flags.shutdown and not self.ended:
            # The end of an event loop waits for all tasks, and this one ignores its cancellation,
            # or waits for one that does.
            for task in (self._task, *(self._tasks or ())):
                hold_forever(task)

    def _add_task(self, task: asyncio.Future[Any]) -> None:
        if self._tasks is None:
            self._tasks = WeakSet()
        self._tasks.add(task)

    async def _run(self) -> None:
        """Run the handler. Nothing that it raises may leave this coroutine.

        The event loop itself stops for a SystemExit or KeyboardInterrupt, and for other exceptions
        the outcome would be lost.
        """
        outcome: Outcome | None
        pid = os.getpid()
        on_task.set(self._add_task)
        try:
            if self._handler.shape.is_async:
                outcome = await self._outcome_of(await self._call())
            else:
                outcome = await self._call_in_thread()
        except BaseException as error:
            outcome = self._failed(error)
        if os.getpid() != pid:
            # The handler forked, and this is the child. It shares the sockets of the event loop,
            # and would go on as a second worker of the same jobs.
            _log.error("The handler of job %s returned in a fork, which is ended", self.job.key)
            os._exit(1)
        # What a task returns is lost if it cancels itself in its last step.
        self._result = [outcome]
        if self._progress is not None and isinstance(outcome, Snoozed | Parked):
            with contextlib.suppress(asyncio.CancelledError):
                await self._progress.flush()  # the job shows it while it waits
        on_task.set(None)  # the task keeps its context, which would keep this attempt

    async def _call(self) -> object:
        handler = self._handler
        context = JobContext(self) if handler.shape.takes_context else None
        value = handler.function(*handler.arguments(self.job.payload, context))
        # What wraps an async function may return at once.
        return await value if inspect.isawaitable(value) else value

    async def _outcome_of(self, value: object) -> Outcome | None:
        if not _is_large(value):
            return verdicts.from_value(value, self.job.queue)
        # To write it as JSON can take seconds, in which other jobs are to go on.
        name = f"{self.job.job_type} {self.job.key}"
        ended: Outcome | Raised = await in_thread(name, verdicts.from_value, value, self.job.queue)
        return self._failed(ended.error) if isinstance(ended, Raised) else ended

    async def _call_in_thread(self) -> Outcome | None:
        handler, job = self._handler, self.job
        context = SyncJobContext(self) if handler.shape.takes_context else None

        def call() -> Outcome:
            value = handler.function(*handler.arguments(job.payload, context))
            return verdicts.from_value(value, job.queue)

        ended: Outcome | Raised = await in_thread(f"{job.job_type} {job.key}", call)
        return self._failed(ended.error) if isinstance(ended, Raised) else ended

    def _failed(self, error: BaseException) -> Outcome | None:
        kind = type(verdicts.cause_of(error))
        if issubclass(kind, verdicts.Verdict):
            return verdicts.from_error(error, self.job.queue)
        if issubclass(kind, asyncio.CancelledError):
            return self._stopped(error)
        if self._stop is not None:
            _log.info(
                "The handler of job %s failed while it was stopped: %s\n%s",
                self.job.key,
                clean(describe(error)),
                traceback_of(error),
            )
            return self._stopped(error)
        return verdicts.from_error(error, self.job.queue)

    def _done(self, task: asyncio.Task[None]) -> None:
        try:
            if not self.settled:
                # Without a result it was cancelled before its first step.
                self._settle(self._result[0] if self._result else self._stopped())
        finally:
            self._owner.ended(self)

    def _settle(self, outcome: Outcome | None) -> None:
        self._deadlines.drop(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._progress is not None:
            self._progress.drop()
        self._flags.stopped = True
        self.settled = True
        self.duration = time.monotonic() - self._began
        self.outcome = None if self._stop is Stop.LOST else outcome
        if self.outcome is None and self._log is not None:
            self._log.drop()
        self._owner.settled(self)
        self._log_outcome()

    def _stopped(self, error: BaseException | None = None) -> Outcome | None:
        match self._stop:
            case Stop.TIMEOUT:
                limit = f"{self.job.timeout_seconds:g}"
                # The traceback of a cancellation shows what the handler waited for.
                return Failed(
                    f"TimeoutError: the job did not end within {limit} s", _detail_of(error)
                )
            case Stop.CANCEL:
                return Cancelled()
            case Stop.SHUTDOWN:
                return Released()
            case Stop.LOST:
                return None
            case None if self._flags.shutdown:  # the handler saw it and gives the job back
                return Released()
            case None:  # the handler let a cancellation of its own escape
                return Failed("CancelledError: the handler cancelled itself", _detail_of(error))

    def _log_outcome(self) -> None:
        job, outcome, level = self.job, self.outcome, logging.INFO
        of, reason, detail = "", None, None
        if isinstance(outcome, Failed):
            is_last = not outcome.retryable or job.attempt >= job.max_attempts
            level = logging.ERROR if is_last else logging.WARNING
            of = f" of {job.max_attempts}" if outcome.retryable else ", for good"
            reason, detail = outcome.error, outcome.detail
        elif isinstance(outcome, Snoozed) and outcome.detail is not None:
            # An exception for which the job is not at fault: it may go on for ever.
            level, reason = logging.WARNING, outcome.detail
        if _log.isEnabledFor(level):
            name = outcome.name if outcome else "lost its lease"
            _log.log(
                level,
                "Job %s (%s) %s, attempt %d%s%s (%.3f s)",
                *(job.key, job.job_type, name, job.attempt, of),
                f": {reason}" if reason else "",
                self.duration,
            )
        if detail:
            _tracebacks.info("The traceback of job %s:\n%s", job.key, detail)


def _is_large(value: object) -> bool:
    """Return whether a result has more than some thousand parts."""
    left: list[Any] = [value]
    size = 0
    while left and size <= LARGE:
        part = left.pop()
        if type(part) in (dict, list, tuple, set, frozenset):  # no class of the user's own
            size += len(part)
            if size <= LARGE:
                left.extend(part.values() if type(part) is dict else part)
    return size > LARGE


def _detail_of(error: BaseException | None) -> str | None:
    return None if error is None else traceback_of(error)
