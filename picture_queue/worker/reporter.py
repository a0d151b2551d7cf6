"""Write outcomes, many in one call. An outcome is kept until the database has answered for it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from picture_queue import _rpc
from picture_queue._log import Log
from picture_queue._secrets import redact_secrets
from picture_queue._text import clean_line
from picture_queue.errors import Busy, ConnectionFailed, TooLarge
from picture_queue.records import ClaimedJob
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker._loop import BackgroundLoop
from picture_queue.worker.executor import log_outcome
from picture_queue.worker.outcomes import Failed, Outcome, Released
from picture_queue.worker.slots import Slots

_log = Log(__name__)

#: Maximum number of outcomes in one call.
BATCH = 500
#: Seconds that outcomes wait for others while many jobs finish; otherwise they are sent at once.
_GATHER_TIME = 0.005
#: The fields of an outcome that can quote a secret, such as the URL of a request that failed.
_TEXTS = ("error", "detail")
_REPORT_TIMEOUT = 10.0  # seconds for an answer, retries included


class Report:
    """The outcome of an attempt as JSON.

    Each outcome is encoded separately, so that an outcome that cannot be encoded does not affect
    the others.

    Args:
        duration: The duration of the attempt in seconds; None: the job was not started.
        exception: The exception of the handler, for hooks.
    """

    __slots__ = ("duration", "exception", "item", "job", "outcome")

    def __init__(
        self,
        job: ClaimedJob,
        outcome: Outcome,
        duration: float | None,
        exception: BaseException | None = None,
    ) -> None:
        self.job = job
        self.duration = duration
        self.exception = exception
        try:
            self._encode(outcome)
        except Exception as error:
            self.fail(repr(error))

    def fail(self, reason: str) -> None:
        """Report a failure instead of an outcome that can never be written."""
        error = clean_line(f"The outcome of the job could not be written: {reason}")
        self._encode(Failed(error, retryable=False))

    def _encode(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.item = outcome.as_json()
        for name in _TEXTS:
            if (text := self.item.get(name)) is not None:
                self.item[name] = redact_secrets(text)
        self.item["job_id"] = self.job.id_text
        self.item["lease_id"] = self.job.lease_id_text
        self.item["duration_seconds"] = round(self.duration or 0.0, 4)


class Reporter(BackgroundLoop):
    """The loop that sends the outcomes which were added since the last answer.

    Args:
        slots: The slots, which show whether many jobs finish at the same time.
        on_written: Called with the jobs for whose outcomes the database has answered.
        locked_reporter: The reporter for jobs whose rows another transaction has locked, so that
            they do not delay other outcomes; None: this reporter tries them again.
        on_recorded: Called with each report that the database has recorded, and the new state of
            the job.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        slots: Slots,
        on_written: Callable[[Sequence[ClaimedJob]], None],
        locked_reporter: "Reporter | None" = None,
        on_recorded: Callable[[Report, str | None], None] = lambda report, status: None,
    ) -> None:
        super().__init__(calls)
        self._slots = slots
        self._on_written = on_written
        self._on_recorded = on_recorded
        self._locked_reporter = locked_reporter
        # One report for each job, by its id. A second report of a job replaces the first, since it
        # means that the lease of the first has ended.
        self._waiting: dict[str, Report] = {}
        self._batch_size = BATCH

    def put(
        self,
        job: ClaimedJob,
        outcome: Outcome,
        duration: float | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Add an outcome; it is written in the background."""
        self._add(Report(job, outcome, duration, exception))

    async def stop(self, timeout: float) -> None:
        """Write the outcomes that are left, and log each outcome that could not be written."""
        await super().stop(timeout)
        for report in self._waiting.values():
            _log.error(
                "The outcome of job %s (%s) could not be written; "
                "the job runs again when its lease has expired",
                report.job.id_text,
                report.outcome.name,
            )

    def _add(self, report: Report) -> None:
        self._waiting[report.job.id_text] = report
        self.wake()

    def _remove(self, report: Report) -> bool:
        """Remove a report; return False if it no longer waits or a newer report has replaced it."""
        is_newest = self._waiting.get(report.job.id_text) is report
        if is_newest:
            del self._waiting[report.job.id_text]
        return is_newest

    def _is_finished(self) -> bool:
        return not self._waiting

    async def _tick(self) -> None:
        if not self._waiting:
            await self._wait(None)
            return
        should_gather = (
            self._slots.in_bulk and len(self._waiting) < BATCH // 2 and not self.stopping
        )
        # Even a sleep of 0 lets jobs that end in this iteration of the event loop add outcomes.
        await asyncio.sleep(_GATHER_TIME if should_gather else 0)
        batch = list(islice(self._waiting.values(), self._batch_size))
        await self._send(batch)

    async def _send(self, batch: list[Report]) -> None:
        call = _rpc.report_jobs([report.item for report in batch])
        try:
            # A worker that stops has no time for a pause that the API asked for.
            options = {"urgent": self.stopping, "counts": self._locked_reporter is not None}
            answers = await self._calls.call(call, _REPORT_TIMEOUT, **options)
        except Exception as error:
            is_at_fault = isinstance(error, ValueError | TypeError | RecursionError | TooLarge)
            if is_at_fault and len(batch) > 1:
                # Split the batch at once, before new outcomes join the faulty one.
                for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                    await self._send(half)
                return
            # Move these outcomes to the end and send smaller batches, so that an outcome that
            # cannot be sent does not delay the others.
            self._batch_size = max(1, len(batch) // 2)
            for report in batch:
                if self._remove(report):
                    self._add(report)
            if is_at_fault:
                self._fail_job(batch[0], str(error))
                return
            if len(batch) == 1 and not isinstance(error, ConnectionFailed):
                self._hand_over(batch[0])
            raise
        self._batch_size = min(self._batch_size * 2, BATCH)
        self._process_answers(batch, answers)

    def _process_answers(
        self, batch: list[Report], answers: Mapping[str, Mapping[str, Any]]
    ) -> None:
        written, locked = [], []
        for report in batch:
            answer = answers.get(report.job.id_text, {"outcome": "stale"})
            if answer["outcome"] == "refused":
                self._fail_job(report, str(answer.get("error")))
            elif answer["outcome"] == "busy":
                locked.append(report)
            else:
                self._remove(report)
                self._log_answer(report, answer["outcome"], answer.get("status"))
                written.append(report.job)
        if written:
            self._on_written(written)
        if locked and self._locked_reporter is None:
            raise Busy(f"The rows of {len(locked)} jobs are locked")
        for report in locked:
            self._hand_over(report)

    def _hand_over(self, report: Report) -> None:
        """Pass the outcome of a locked job to the reporter of locked jobs."""
        if self._locked_reporter is not None and self._remove(report):
            self._locked_reporter._add(report)
            self._slots.mark_locked(report.job)
            self._on_written([])  # no lease ends, but `mark_locked` may permit claims again

    def _log_answer(self, report: Report, answer: str, status: str | None) -> None:
        if answer != "stale":
            if report.duration is not None:
                outcome, worker = report.outcome, self._calls.worker
                log_outcome(report.job, outcome, report.duration, status, worker)
            self._on_recorded(report, status)
        elif not isinstance(report.outcome, Released):
            message = "The outcome of job %s (%s) was not recorded: its lease had ended"
            _log.warning(message, report.job.id_text, report.outcome.name)
        self._calls.emit("reported", report.job, answer)

    def _fail_job(self, report: Report, reason: str) -> None:
        """Replace a refused outcome with a failure; give up if that failure is refused too."""
        if self._waiting.get(report.job.id_text) is not report:
            return
        if isinstance(report.outcome, Failed) and not report.outcome.detail:
            _log.error("The failure of job %s cannot be written: %s", report.job.id_text, reason)
            self._remove(report)
            self._on_written([report.job])
            return
        message = "The outcome of job %s (%s) is refused, and the job fails: %s"
        _log.error(message, report.job.id_text, report.outcome.name, reason)
        report.fail(reason)
