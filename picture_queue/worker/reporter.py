"""Writes outcomes, many in one call. An outcome is kept until the database has answered for it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from picture_queue import _rpc
from picture_queue.claimed_job import ClaimedJob
from picture_queue.errors import TooLarge
from picture_queue.worker._link import Link, Pauses
from picture_queue.worker._service import Service
from picture_queue.worker._signals import Signals
from picture_queue.worker.claimer import Claimer
from picture_queue.worker.outcomes import Failed, Outcome, Released, clean

_log = logging.getLogger(__name__)

#: Outcomes in one call at most.
BATCH = 500
_ANSWER = 20.0  # seconds for an answer, repetitions included
#: Seconds outcomes wait for others while jobs end by the hundred; else they are sent at once.
_LINGER = 0.005


@dataclass(slots=True, eq=False)
class Report:
    """What is to be written about one attempt."""

    job: ClaimedJob
    outcome: Outcome
    duration: float

    def as_json(self) -> dict[str, Any]:
        """Returns the report as `report_jobs` takes it."""
        return {
            "job_id": self.job.key,
            "lease_id": self.job.lease_key,
            "duration_seconds": round(self.duration, 4),
            **self.outcome.as_json(),
        }


class Reporter(Service):
    """Sends what has come together since the last answer, and claims in the same round trip.

    Args:
        link: Makes the calls.
        claimer: Asks for the next jobs where slots are free.
        on_reported: Called with the job once the database has answered.
        signals: For tests.
    """

    def __init__(
        self,
        link: Link,
        claimer: Claimer,
        on_reported: Callable[[ClaimedJob], None],
        signals: Signals,
    ) -> None:
        super().__init__()
        self._link = link
        self._claimer = claimer
        self._on_reported = on_reported
        self._signals = signals
        self._pauses = Pauses(first=0.1, longest=5.0)
        # One report a job: where there is a second, the first one's lease has ended.
        self._waiting: dict[str, Report] = {}
        self._batch = BATCH
        self._in_trouble = False  # the last call failed: claims do not wait for the next

    def put(self, job: ClaimedJob, outcome: Outcome, duration: float = 0.0) -> None:
        """Takes an outcome; it is written from the background."""
        self._waiting[job.key] = Report(job, outcome, duration)
        self.wake()

    def will_ask(self) -> bool:
        """Whether a call is about to be made, or on its way, that can ask for jobs as well."""
        return bool(self._waiting) and not self._in_trouble

    @property
    def backlog(self) -> int:
        """Number of outcomes the database has not answered for."""
        return len(self._waiting)

    async def stop(self, patience: float) -> None:
        """Writes what is left, and says what could not be written."""
        await super().stop(patience)
        for report in self._waiting.values():
            _log.error(
                "The outcome of job %s (%s) could not be written; the job runs again once its "
                "lease has ended",
                report.job.key,
                report.outcome.name,
            )

    def _finished(self) -> bool:
        return not self._waiting

    async def _round(self) -> None:
        if not self._waiting:
            await self._pause(None)
            return
        if self._claimer.in_bulk and len(self._waiting) < BATCH // 2 and not self.stopping:
            await asyncio.sleep(_LINGER)
        batch = list(islice(self._waiting.values(), self._batch))
        if await self._write(batch):
            self._in_trouble = False
            self._pauses.reset()
            self._batch = min(self._batch * 2, BATCH)
            return
        self._in_trouble = True
        self._claimer.wake()
        # Smaller, and others first: one report that cannot be sent must not hold up the rest.
        self._batch = max(1, len(batch) // 2)
        for report in batch:
            if self._waiting.get(report.job.key) is report:
                self._waiting[report.job.key] = self._waiting.pop(report.job.key)
        await asyncio.sleep(self._pauses.next())

    async def _write(self, batch: list[Report]) -> bool:
        """Makes one call; False when the same reports are to be sent again."""
        # A report that is looked at on its own must not fail for what a claim brings.
        claim = self._claimer.ask_along() if self._batch > 1 else None
        call = _rpc.report_jobs([report.as_json() for report in batch], claim)
        try:
            answer = await self._link.call(call, _ANSWER)
        except Exception as error:  # the link has logged it
            self._claimer.unanswered(claim)
            if len(batch) > 1 or claim or not _is_at_fault(error):
                return False
            self._replace(batch[0], str(error))
            return True
        self._claimer.answered(claim, answer.jobs)
        written = True
        for report in batch:
            outcome = answer.outcomes.get(report.job.key, "stale")
            if outcome == "busy":  # somebody has the job locked; the others are written
                written = False
            elif outcome == "refused":
                self._replace(report, "the database refused it; queue_doctor() says why")
            else:
                self._answered(report, outcome)
        return written

    def _answered(self, report: Report, answer: str) -> None:
        if self._waiting.get(report.job.key) is report:
            del self._waiting[report.job.key]
        if answer == "stale" and not isinstance(report.outcome, Released):
            _log.warning(
                "The work on job %s was not recorded: its lease had ended (outcome: %s)",
                report.job.key,
                report.outcome.name,
            )
        self._on_reported(report.job)
        if self._signals.reported.watched:
            self._signals.reported.emit((report.job.id, answer))

    def _replace(self, report: Report, error: str) -> None:
        """Fails a job whose outcome the database can never take."""
        if self._waiting.get(report.job.key) is not report:
            return
        if isinstance(report.outcome, Failed) and not report.outcome.detail:
            _log.error("The failure of job %s cannot be written: %s", report.job.key, error)
            del self._waiting[report.job.key]
            self._on_reported(report.job)
            return
        report.outcome = Failed(
            clean(f"The outcome of the job could not be written: {error}"), retryable=False
        )


def _is_at_fault(error: Exception) -> bool:
    """Whether the outcome, not the way to the database, is what went wrong."""
    return isinstance(error, ValueError | TypeError | RecursionError | TooLarge)
