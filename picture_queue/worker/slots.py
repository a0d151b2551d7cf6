"""The jobs that a worker has claimed, and the number of jobs to claim next.

A job is held ahead if it was claimed before a slot is free for it (prefetching).
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from picture_queue._log import Log
from picture_queue.records import ClaimedJob
from picture_queue.worker.executor import Attempt

_log = Log(__name__)

#: Maximum number of jobs in one claim, which `claim_jobs` enforces, and of jobs held ahead.
MAX_CLAIM = 1000
#: Maximum number of jobs in one claim while no jobs are to be held ahead. All jobs of a claim start
#: in one pass of the event loop, which a thousand handlers would block for half a second.
MAX_LONG_CLAIM = 25
#: Seconds of work to hold ahead, at the measured rate at which jobs end.
AHEAD_SECONDS = 0.25
#: Minimum duration in seconds of a measurement of the rate: a few quick jobs predict nothing.
_MIN_SAMPLE = AHEAD_SECONDS / 16
#: Minimum number of jobs in a claim while jobs are to be held ahead. If half of the number of jobs
#: to hold ahead is less, that half is the minimum.
MIN_CLAIM = 500
#: Maximum number of seconds that a job is held ahead. Then it is released for other workers.
MAX_HELD_SECONDS = 1.0
_CHECK_HELD = 0.05  # seconds between two checks of the jobs that are held ahead


@dataclass(slots=True, eq=False)
class Lease:
    """The lease of a job, from the claim of the job until its outcome is written.

    Attributes:
        job: The job.
        renewed_at: The time of the monotonic clock at which the call that granted or extended the
            lease was sent. The lease is valid for at least ``seconds`` from this time.
        confirm_at: The time at which to confirm to the database that the job has started; infinite
            until the job gets a slot. The heartbeat extends only leases with a finite time.
        start_confirmed: Whether the database knows that the job has started.
        attempt: The attempt that runs the job; None before the attempt starts.
        seconds: The length of the lease.
    """

    job: ClaimedJob
    renewed_at: float
    confirm_at: float = math.inf
    start_confirmed: bool = False
    attempt: Attempt | None = None
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.seconds = self.job.lease_seconds

    @property
    def extend_at(self) -> float:
        """The time at which to extend the lease."""
        return self.renewed_at + self.seconds / 3

    @property
    def due_at(self) -> float:
        """The time at which to confirm the start or to extend the lease, whichever comes first."""
        if self.start_confirmed or self.has_outcome:  # the report of the outcome confirms the start
            return self.extend_at
        return min(self.extend_at, self.confirm_at)

    @property
    def ends_at(self) -> float:
        """The earliest time at which the lease can expire."""
        return self.renewed_at + self.seconds

    @property
    def is_valid(self) -> bool:
        """True until the lease may have expired."""
        return time.monotonic() < self.ends_at

    @property
    def has_outcome(self) -> bool:
        """True once the attempt has an outcome, which is not written yet."""
        return self.attempt is not None and self.attempt.has_outcome


class Slots:
    """The slots of a worker, the jobs in them, and the jobs that are held ahead.

    Each job is held ahead, has a slot, or has an outcome that is not written yet. It has a lease
    all this time. `leases` and `find` may be called from another thread.

    Args:
        concurrency: Jobs that run at the same time.
        release: Called with a job that has not started, to release its lease.
        max_jobs: Number of jobs to run in total; None: no limit.
    """

    def __init__(
        self,
        concurrency: int,
        release: Callable[[ClaimedJob], None],
        max_jobs: int | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._release = release
        self._max_jobs = max_jobs
        self._counted = 0  # jobs that count against `max_jobs`
        # The jobs that have a slot. A job keeps its slot until its handler has ended, even after it
        # has an outcome.
        self._taken: dict[ClaimedJob, Lease] = {}
        # The jobs that are held ahead, each with the time at which to release it.
        self._held: deque[tuple[Lease, float]] = deque()
        self._leases: dict[str, Lease] = {}  # by id of the job
        self._lock = threading.Lock()
        # Ids of jobs whose outcome is not written yet: those whose outcome pauses a limit key, and
        # those whose outcome waits for a lock on the row of the job.
        self._pausing: set[str] = set()
        self._locked: set[str] = set()
        # Since the measurement began: jobs that ended, and seconds in which any slot was taken.
        self._ended, self._busy_seconds, self._busy_since = 0, 0.0, 0.0
        self._last_target = 0  # number of jobs to hold ahead, from the previous measurement
        self._timer: asyncio.TimerHandle | None = None

    # --- demand ---

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self.concurrency - len(self._taken)

    @property
    def has_leases(self) -> bool:
        """True while the worker has a job whose outcome is not written yet."""
        return bool(self._leases)

    @property
    def is_used_up(self) -> bool:
        """True once as many jobs were started as `max_jobs` permits."""
        return self._max_jobs is not None and self._counted >= self._max_jobs

    @property
    def in_bulk(self) -> bool:
        """True while jobs are held ahead, which means that jobs end quickly."""
        return bool(self._held)

    def demand(self) -> int:
        """Return how many jobs to claim now.

        While jobs end quickly, the worker also claims as many jobs as end within `AHEAD_SECONDS`,
        so that it has work until the next answer. While jobs are long, this number is 0.
        """
        if self._pausing:
            return 0
        ahead = self._target_ahead()
        acceptable = self.free + ahead - len(self._held)
        # While jobs are to be held ahead, a claim for a few jobs would waste a round trip. If no
        # jobs are held ahead, claim even one job.
        if acceptable < max(1, min(ahead // 2, MIN_CLAIM)):
            return 0
        # Stop claiming while outcomes cannot be written. While they can be written, fewer outcomes
        # than `max_unwritten` wait. Up to MAX_CLAIM outcomes that wait for a row lock are not
        # counted, since other outcomes can still be written.
        unwritten = len(self._leases) - len(self._held) - len(self._taken)
        unwritten -= min(len(self._locked), MAX_CLAIM)
        max_unwritten = 2 * self.concurrency + 4 * ahead
        if unwritten >= max_unwritten:
            return 0
        max_claim = MAX_CLAIM if ahead else MAX_LONG_CLAIM
        return max(0, min(acceptable, max_claim, self._remaining()))

    def _remaining(self) -> int:
        """Return how many more jobs `max_jobs` permits to claim."""
        if self._max_jobs is None:
            return MAX_CLAIM
        waiting = sum(lease.attempt is None for lease in self._taken.values())
        return self._max_jobs - self._counted - waiting - len(self._held)

    def count_job(self) -> None:
        """Count a job against `max_jobs`: a job that starts, or fails without a start."""
        self._counted += 1

    def _target_ahead(self) -> int:
        """Return how many jobs to hold ahead."""
        seconds = self._busy_seconds + self._busy_for()
        measured = 0
        if self._ended >= self.concurrency:
            measured = min(int(self._ended * AHEAD_SECONDS / max(seconds, _MIN_SAMPLE)), MAX_CLAIM)
        # Until this measurement is long enough, the previous measurement applies too.
        return measured if seconds >= _MIN_SAMPLE else max(measured, self._last_target)

    def _busy_for(self) -> float:
        """Return the seconds of the current busy period in this measurement; 0 if all are free."""
        return time.monotonic() - self._busy_since if self._taken else 0.0

    def restart_measurement(self) -> None:
        """Begin a new measurement of the rate after an answer, if enough jobs have ended."""
        if self._ended >= self.concurrency:
            self._last_target = self._target_ahead()
            self._ended, self._busy_seconds, self._busy_since = 0, 0.0, time.monotonic()

    def pause_claims(self, job: ClaimedJob) -> None:
        """Stop claims until the outcome of this job, which pauses a limit key, is written.

        The jobs that have not started are released, since the limit key may apply to them.
        """
        self._pausing.add(job.id_text)
        self.release_unstarted()

    def mark_locked(self, job: ClaimedJob) -> None:
        """Allow claims although the outcome of this job waits for a lock on its row."""
        self._pausing.discard(job.id_text)
        self._locked.add(job.id_text)

    # --- leases ---

    def leases(self) -> list[Lease]:
        """Return the leases that heartbeats extend: those of the jobs that got a slot."""
        with self._lock:
            return [lease for lease in self._leases.values() if lease.confirm_at < math.inf]

    def next_confirm_at(self) -> float:
        """Return the time to confirm the next start of a running job; infinite if there is none."""
        unconfirmed = (
            lease.confirm_at
            for lease in self._taken.values()
            if not (lease.has_outcome or lease.start_confirmed)
        )
        return min(unconfirmed, default=math.inf)

    def find(self, job_id: str) -> Lease | None:
        """Return the lease of a job, or None."""
        return self._leases.get(job_id)

    def add(self, lease: Lease) -> Lease | None:
        """Add a lease; return an older lease of the same job, which is lost, if there is one."""
        older = self._leases.get(lease.job.id_text)
        if older is not None:
            self.drop_lease(older.job)
        with self._lock:
            self._leases[lease.job.id_text] = lease
        return older

    def lease_of(self, attempt: Attempt) -> Lease | None:
        """Return the lease of an attempt; None if it is lost."""
        lease = self._leases.get(attempt.job.id_text)
        return lease if lease is not None and lease.attempt is attempt else None

    def drop_lease(self, job: ClaimedJob) -> None:
        """Remove a lease that ended. If its attempt has not started, free the slot as well."""
        # Discard the ids even if there is no lease: an outcome can be passed to the reporter of
        # locked jobs after its lease was lost.
        self._pausing.discard(job.id_text)
        self._locked.discard(job.id_text)
        lease = self._leases.get(job.id_text)
        if lease is None or lease.job.lease_id_text != job.lease_id_text:
            return
        if lease.attempt is None:
            self._free(lease.job)
        with self._lock:
            del self._leases[job.id_text]

    # --- slots ---

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts that have a slot."""
        return [lease.attempt for lease in self._taken.values() if lease.attempt is not None]

    def assign_slot(self, lease: Lease, attempt: Attempt | None) -> None:
        """Give a slot to a job. From then on the heartbeat extends its lease.

        A job that waits for the confirmation of its start has no attempt. It is assigned a second
        time, with its attempt, after the confirmation.
        """
        lease.attempt = attempt
        lease.confirm_at = time.monotonic()
        if not self._taken:
            self._busy_since = lease.confirm_at
        self._taken[lease.job] = lease

    def is_waiting(self, lease: Lease) -> bool:
        """Return whether a job has a slot and waits for the confirmation of its start."""
        return lease.attempt is None and lease.job in self._taken

    def free_slot(self, job: ClaimedJob) -> None:
        """Free the slot of a job whose attempt has ended. Its lease stays."""
        self._free(job)
        self._ended += 1

    def _free(self, job: ClaimedJob) -> None:
        if job in self._taken:
            if len(self._taken) == 1:
                self._busy_seconds += self._busy_for()
            del self._taken[job]

    def hold(self, lease: Lease) -> None:
        """Hold a job until a slot is free."""
        until = time.monotonic() + min(MAX_HELD_SECONDS, lease.seconds / 3)
        self._held.append((lease, until))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_HELD, self._check_held)

    def pop_held(self) -> Lease | None:
        """Remove and return the oldest held job whose lease is still valid."""
        dropped, oldest = 0, None
        while oldest is None and self._held:
            lease, _ = self._held.popleft()
            if lease.is_valid and self._leases.get(lease.job.id_text) is lease:
                oldest = lease
            else:
                self.drop_lease(lease.job)  # another worker may have run the job
                dropped += 1
        if dropped:
            _log.warning("Dropped %d jobs that were claimed ahead: their leases ended", dropped)
        return oldest

    def release_unstarted(self) -> None:
        """Release all jobs that have not started."""
        for lease in [lease for lease in self._taken.values() if lease.attempt is None]:
            self._free(lease.job)
            lease.confirm_at = math.inf  # a heartbeat must not confirm a start that never comes
            self._release(lease.job)
        self._release_held()

    def _release_held(self) -> None:
        while (lease := self.pop_held()) is not None:
            self._release(lease.job)

    def _check_held(self) -> None:
        """Release all held jobs once one of them has waited too long for a slot."""
        self._timer = None
        now = time.monotonic()
        if any(until <= now for _, until in self._held):
            self._release_held()
        elif self._held:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_HELD, self._check_held)
