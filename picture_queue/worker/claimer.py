"""Claim jobs for the free slots of a worker."""

import math
import random
import time
from collections.abc import Callable
from uuid import uuid4

from picture_queue import _rpc
from picture_queue._rpc import Claim
from picture_queue.records import ClaimedJob
from picture_queue.settings import WorkerSettings
from picture_queue.worker._calls import WorkerCalls, is_refusal
from picture_queue.worker._loop import BackgroundLoop
from picture_queue.worker.slots import MAX_CLAIM, Slots

_CLAIM_TIMEOUT = 10.0  # seconds for an answer, retries included


class Claimer(BackgroundLoop):
    """The loop that keeps the slots of a worker filled.

    There is one claim at a time. A claim whose answer was lost is repeated with the same request
    id, and the database returns the same jobs.

    Args:
        job_types: The types that have a handler.
        settings: Queues, lease and poll interval.
        slots: The slots, which determine how many jobs to claim.
        on_claimed: Called with each job, and the time of the monotonic clock when it was claimed.
        on_empty: Called after an answer without jobs.

    Attributes:
        empty_at: Time of the monotonic clock at which the last claim was sent, if its answer had no
            jobs; otherwise minus infinity.
        receives_wake_ups: Whether wake-ups of all queues arrive. If not, the worker claims whenever
            a slot becomes free.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        job_types: tuple[str, ...],
        settings: WorkerSettings,
        slots: Slots,
        on_claimed: Callable[[ClaimedJob, float], None],
        on_empty: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(calls)
        self.empty_at = -math.inf
        self.receives_wake_ups = False
        self._job_types = job_types
        self._settings = settings
        self._slots = slots
        self._on_claimed = on_claimed
        self._on_empty = on_empty
        # Times of the monotonic clock: of the next claim, and of the claim that is not answered.
        self._due_at = self._sent_at = 0.0
        self._open_claim: Claim | None = None  # the claim that was sent and is not answered yet
        self._was_full = True  # whether the last answer had as many jobs as were requested
        # Maximum number of jobs in a claim. It is reduced after a failure, since the answer may
        # have been too large.
        self._max_claim = MAX_CLAIM

    def request_claim(self) -> None:
        """Claim at once, or as soon as a slot is free."""
        self._due_at = 0.0
        self.wake()

    def slot_freed(self) -> None:
        """Claim for a slot that became free, unless a wake-up will announce the next job."""
        if not self.receives_wake_ups:
            self._due_at = 0.0
        self.demand_changed()

    def demand_changed(self) -> None:
        """Claim if a claim is due and the slots ask for jobs."""
        if self._due_at <= time.monotonic() and self._slots.demand():
            self.wake()

    def _is_finished(self) -> bool:
        return self._open_claim is None  # the answer may contain jobs, which must be released

    async def _tick(self) -> None:
        if self._open_claim is None:
            wait = self._due_at - time.monotonic()
            if wait > 0:
                await self._wait(wait)
                return
            if not (demand := self._slots.demand()):
                await self._wait(None)  # until a slot is free
                return
            self._open_claim = self._build_claim(min(demand, self._max_claim))
            self._sent_at = time.monotonic()
            self._due_at = math.inf  # the answer sets it, or `request_claim` before the answer
        try:
            jobs = await self._calls.call(_rpc.claim_jobs(self._open_claim), _CLAIM_TIMEOUT)
        except Exception as error:
            self._max_claim = max(1, self._max_claim // 2)
            if is_refusal(error):
                self._calls.log_fault(f"The project refuses claims: {error}")
                self._open_claim, self._due_at = None, 0.0
            raise
        self._process_answer(self._open_claim, jobs)

    def _build_claim(self, max_jobs: int) -> Claim:
        return Claim(
            self._calls.worker,
            self._settings.queue_names,
            self._job_types,
            max_jobs,
            self._settings.lease,
            uuid4(),
            self._settings.weights,
            confirms_start=True,
        )

    def _process_answer(self, claim: Claim, jobs: list[ClaimedJob]) -> None:
        self._open_claim = None
        self._max_claim = min(2 * self._max_claim, MAX_CLAIM)
        self._slots.restart_measurement()
        is_full = len(jobs) >= claim.max_jobs
        if not (is_full or self._was_full):
            # Jitter, so that workers that were started together do not always poll together.
            interval = self._settings.poll_interval * random.uniform(0.8, 1.0)  # noqa: S311
            if self.receives_wake_ups:
                interval *= 2
            self._due_at = min(self._due_at, time.monotonic() + interval)
            self._calls.emit("idle")
        else:
            # Claim again at once, even after the first answer that is not full. The database
            # records that this worker is idle when it writes that answer. So it sent no wake-up for
            # a job that was enqueued shortly before.
            self._due_at = 0.0
        self._was_full = is_full
        self.empty_at = -math.inf if jobs else self._sent_at
        for job in jobs:
            self._on_claimed(job, self._sent_at)
        if jobs:
            self._calls.emit("claimed", jobs)
        else:
            self._on_empty()
