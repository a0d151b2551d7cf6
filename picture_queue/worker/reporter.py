"""Writes outcomes, many in one call. An outcome is kept until the database has answered for it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from picture_queue import _rpc
from picture_queue.errors import Busy, TooLarge
from picture_queue.records import ClaimedJob
from picture_queue.worker._calls import RetryDelay, WorkerCalls
from picture_queue.worker._loop import BackgroundLoop
from picture_queue.worker._signals import Signals
from picture_queue.worker.outcomes import Failed, Outcome, Released, clean
from picture_queue.worker.slots import Slots

_log = logging.getLogger(__name__)

#: Outcomes in one call at most.
BATCH = 500
#: Seconds that outcomes wait for others while jobs finish in bulk; else they are sent at once.
_GATHER_TIME = 0.005
_REPORT_TIMEOUT = 10.0  # seconds for an answer, retries included


class Report:
    """An attempt's outcome, as it is written. It is encoded here, where it can fail alone.

    Args:
        job: The job.
        outcome: Its outcome.
        duration: Seconds the attempt took.
    """

    __slots__ = ("duration", "item", "job", "outcome")

    def __init__(self, job: ClaimedJob, outcome: Outcome, duration: float) -> None:
        self.job = job
        self.duration = duration
        try:
            self.replace(outcome)
        except Exception as error:
            self.replace(_unwritable(repr(error)))

    def replace(self, outcome: Outcome) -> None:
        """Report this outcome instead."""
        self.outcome = outcome
        self.item: dict[str, Any] = {
            "job_id": self.job.key,
            "lease_id": self.job.lease_key,
            "duration_seconds": round(self.duration, 4),
            **outcome.as_json(),
        }


class Reporter(BackgroundLoop):
    """Sends the outcomes that have gathered since the last answer.

    Args:
        calls: Makes the calls.
        slots: Tells whether jobs finish in bulk.
        on_written: Called with the jobs for whose outcomes the database has answered.
        signals: For tests.
        locked: Takes the outcomes of jobs that somebody has locked, so that they hold up nobody;
            None: they are repeated here.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        slots: Slots,
        on_written: Callable[[Sequence[ClaimedJob]], None],
        signals: Signals,
        locked: "Reporter | None" = None,
    ) -> None:
        super().__init__()
        self._calls = calls
        self._slots = slots
        self._on_written = on_written
        self._signals = signals
        self._locked = locked
        self._delay = RetryDelay(first=0.1)
        # One report a job: where there is a second, the first one's lease has ended.
        self._waiting: dict[str, Report] = {}
        self._batch_size = BATCH

    def put(self, job: ClaimedJob, outcome: Outcome, duration: float = 0.0) -> None:
        """Take an outcome; it is written in the background."""
        self._add(Report(job, outcome, duration))

    def start(self) -> None:
        """Start to write outcomes."""
        super().start()
        if self._locked is not None:
            self._locked.start()

    async def stop(self, timeout: float) -> None:
        """Write the outcomes that are left, and log those that could not be written."""
        await super().stop(timeout)
        if self._locked is not None:
            await self._locked.stop(timeout)
        for report in self._waiting.values():
            _log.error(
                "The outcome of job %s (%s) could not be written; the job runs again once its "
                "lease has ended",
                report.job.key,
                report.outcome.name,
            )

    def _add(self, report: Report) -> None:
        self._waiting[report.job.key] = report
        self.wake()

    def _remove(self, report: Report) -> None:
        if self._waiting.get(report.job.key) is report:
            del self._waiting[report.job.key]

    def _is_finished(self) -> bool:
        return not self._waiting

    async def _tick(self) -> None:
        if not self._waiting:
            await self._wait(None)
            return
        if self._slots.in_bulk and len(self._waiting) < BATCH // 2 and not self.stopping:
            await asyncio.sleep(_GATHER_TIME)
        batch = list(islice(self._waiting.values(), self._batch_size))
        if await self._write(batch):
            self._delay.reset()
            self._batch_size = min(self._batch_size * 2, BATCH)
            return
        # Others first: one report that cannot be sent must not hold up the others.
        for report in batch:
            if self._waiting.get(report.job.key) is report:
                self._waiting[report.job.key] = self._waiting.pop(report.job.key)
        await self._sleep(self._delay.next())

    async def _write(self, batch: list[Report]) -> bool:
        """Send a batch; return whether it can be followed by the next without a delay.

        A batch that is refused as a whole is halved until the report at fault is alone.
        """
        call = _rpc.report_jobs([report.item for report in batch])
        try:
            # At the end of the worker there is no other try.
            answers = await self._calls.call(call, _REPORT_TIMEOUT, urgent=self.stopping)
        except Exception as error:
            if not _is_at_fault(error):
                if len(batch) == 1 and isinstance(error, Busy) and self._locked is not None:
                    self._hand_over(batch[0], self._locked)
                self._batch_size = max(1, len(batch) // 2)
                return False
            if len(batch) > 1:
                middle = len(batch) // 2
                return all([await self._write(half) for half in (batch[:middle], batch[middle:])])
            self._fail_job(batch[0], str(error))
            return True
        return self._take_answer(batch, answers)

    def _take_answer(self, batch: list[Report], answers: dict[str, str]) -> bool:
        written = []
        is_done = True
        for report in batch:
            answer = answers.get(report.job.key, "stale")
            if answer == "refused":
                self._fail_job(report, "the database refused it; queue_doctor() says why")
            elif answer != "busy":
                self._note_answer(report, answer)
                written.append(report.job)
            elif self._locked is not None:
                self._hand_over(report, self._locked)
            else:
                is_done = False
        if written:
            self._on_written(written)
        return is_done

    def _hand_over(self, report: Report, locked: "Reporter") -> None:
        self._remove(report)
        locked._add(report)
        self._slots.note_locked(report.job)
        self._on_written([])  # nothing is, but there may be more to claim

    def _note_answer(self, report: Report, answer: str) -> None:
        self._remove(report)
        if answer == "stale" and not isinstance(report.outcome, Released):
            _log.warning(
                "The work on job %s was not recorded: its lease had ended (outcome: %s)",
                report.job.key,
                report.outcome.name,
            )
        if self._signals.reported.watched:
            self._signals.reported.emit((report.job.id, answer))

    def _fail_job(self, report: Report, error: str) -> None:
        """Report a failure instead of an outcome that the database can never take."""
        if self._waiting.get(report.job.key) is not report:
            return
        if not (isinstance(report.outcome, Failed) and not report.outcome.detail):
            report.replace(_unwritable(error))
            return
        _log.error("The failure of job %s cannot be written: %s", report.job.key, error)
        self._remove(report)
        self._on_written([report.job])


def _unwritable(error: str) -> Failed:
    return Failed(clean(f"The outcome of the job could not be written: {error}"), retryable=False)


def _is_at_fault(error: Exception) -> bool:
    """Return whether the outcome, not the connection, is the cause."""
    return isinstance(error, ValueError | TypeError | RecursionError | TooLarge)
