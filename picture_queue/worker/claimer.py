"""Asks for jobs: as many as there are free slots, when there may be some."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import NamedTuple
from uuid import uuid4

from picture_queue import _rpc
from picture_queue._rpc import Claim
from picture_queue.claimed_job import ClaimedJob
from picture_queue.settings import WorkerSettings
from picture_queue.worker._link import Link, Pauses
from picture_queue.worker._service import Service
from picture_queue.worker._signals import Signals

_log = logging.getLogger(__name__)

#: Jobs of one claim at most, as `claim_jobs` has it.
MOST = 1000
_ANSWER = 20.0  # seconds for an answer, repetitions included


class Demand(NamedTuple):
    """Numbers of jobs that a worker asks for in one claim.

    Attributes:
        max_jobs: With those it holds until a slot is free.
        start_jobs: Its free slots.
    """

    max_jobs: int
    start_jobs: int


class Claimer(Service):
    """Keeps the slots of a worker filled.

    There is one question at a time, its own or one that travels with a report. Whose answer was
    lost is asked again as it was, with the same request id: the database gives the same jobs.

    Args:
        link: Makes the calls.
        worker: Name of the worker.
        job_types: The types that have a handler.
        settings: Queues, lease and poll interval.
        demand: Returns how many jobs could be taken now.
        launch: Takes a job, and when its lease was asked for by the clock of the event loop.
        signals: For tests.

    Attributes:
        reports_wait: Says whether outcomes are about to be sent, which can ask along: a pause of
            the queue among them is to hold for what is claimed next.
        least: Says how many jobs are worth a call of their own. Above one, jobs end so fast that
            claims do not wait for reports: the database works on both at the same time.
        on_answer: Called with the seconds an answer took.
    """

    def __init__(
        self,
        link: Link,
        worker: str,
        job_types: tuple[str, ...],
        settings: WorkerSettings,
        demand: Callable[[], Demand],
        launch: Callable[[ClaimedJob, float], None],
        signals: Signals,
    ) -> None:
        super().__init__()
        self._link = link
        self._worker = worker
        self._job_types = job_types
        self._settings = settings
        self._demand = demand
        self._launch = launch
        self._signals = signals
        self._pauses = Pauses()
        self._clock = asyncio.get_running_loop().time
        self._open: Claim | None = None  # asked, and not answered yet
        self._asked_at = 0.0  # when it was asked first
        self._asking = False
        self._wanted = True  # something happened: look without waiting for the poll
        self._more = True  # the last answer was full, so there may be more
        self._in_vain = False  # the last answer was empty
        self._next_poll = self._clock()
        self.hears_wake_ups = False  # until then a report always asks along
        self.reports_wait: Callable[[], bool] = lambda: False
        self.least: Callable[[], int] = lambda: 1
        self.on_answer: Callable[[float], None] = lambda seconds: None

    @property
    def in_bulk(self) -> bool:
        """Whether jobs end so fast that claims go by themselves."""
        return self.least() > 1

    def look(self) -> None:
        """Looks for jobs at once, or as soon as a slot is free."""
        self._wanted = True
        self.wake()

    def ask_along(self) -> Claim | None:
        """Returns a question to travel with a report, or None when there is nothing to ask.

        Whoever takes it calls `answered` or `unanswered`.
        """
        if self.in_bulk:
            return None
        due = self._more or self._wanted or self._clock() >= self._next_poll
        return self._question() if due or not self.hears_wake_ups else None

    def answered(self, claim: Claim | None, jobs: list[ClaimedJob]) -> None:
        """Takes the answer to a question and launches its jobs."""
        if claim is None:
            self.wake()
            return
        asked_at = self._asked_at
        self._open, self._asking = None, False
        self.on_answer(self._clock() - asked_at)
        self._next_poll = self._clock() + self._poll_interval()
        # A job in its last attempt is not claimed ahead: an answer that fills the free slots does
        # not say that there is no more.
        free = claim.max_jobs if claim.start_jobs is None else claim.start_jobs
        full = len(jobs) >= min(claim.max_jobs, free)
        if not full and self._more:
            # The database has only now noted that this worker is idle: a job written in the
            # meantime woke nobody.
            self._wanted = True
        elif not full:
            self._signals.idle.emit(None)
        self._more = full
        self._in_vain = not jobs
        for job in jobs:
            self._launch(job, asked_at)
        if jobs and self._signals.claimed.watched:
            self._signals.claimed.emit(tuple(job.id for job in jobs))
        self.wake()

    def unanswered(self, claim: Claim | None) -> None:
        """Keeps a question whose answer was lost."""
        if claim is not None:
            self._asking, self._wanted = False, True
            self.wake()

    def _question(self) -> Claim | None:
        if self._asking or self.stopping:
            return None
        if self._open is None:
            max_jobs, start_jobs = self._demand()
            max_jobs = min(max_jobs, MOST)
            if max_jobs < self.least():
                return None
            self._open = Claim(
                self._worker,
                self._settings.queue_names,
                self._job_types,
                max_jobs,
                self._settings.lease,
                uuid4(),
                self._settings.weights,
                min(start_jobs, max_jobs),
            )
            self._asked_at = self._clock()
        self._asking, self._wanted = True, False
        return self._open

    async def _round(self) -> None:
        in_bulk = self.in_bulk
        # Once nothing could be claimed ahead, the next bulk claim waits for a free slot.
        more = self._more and not (self._in_vain and self._demand().start_jobs == 0)
        at_once = self._wanted or (more and in_bulk)
        wait = 0.0 if at_once else self._next_poll - self._clock()
        if wait > 0:
            await self._pause(wait)
            return
        claim = self._question() if in_bulk or not self.reports_wait() else None
        if claim is None:
            # No slot is free, or a report asks in a moment: both end with a wake-up.
            await self._pause(None)
            return
        try:
            jobs = await self._link.call(_rpc.claim_jobs(claim), _ANSWER)
        except Exception:  # the link has logged it
            self.unanswered(claim)
            await self._rest(self._pauses.next())
            return
        self._pauses.reset()
        self.answered(claim, jobs)

    def _poll_interval(self) -> float:
        # Jitter: workers that were started together do not ask together for ever.
        return self._settings.poll_interval * random.uniform(0.8, 1.0)  # noqa: S311
