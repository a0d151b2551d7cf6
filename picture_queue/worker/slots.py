"""The jobs that a worker holds, and how many more it can take."""

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

#: Jobs of one claim at most, as `claim_jobs` has it, and jobs held ahead at most.
MAX_CLAIM = 1000
#: Seconds of work to hold ahead, at the rate at which jobs end while slots are taken.
AHEAD_SECONDS = 0.25
#: Seconds over which that rate is measured at least: a few quick jobs say little about the next.
_MIN_SAMPLE = AHEAD_SECONDS / 16
#: Fewest jobs worth a claim while jobs are held ahead; half of the jobs to hold, if that is less.
MIN_CLAIM = 500
#: Seconds a job is held ahead at most: then it is given back, for a worker that has a free slot.
MAX_HELD = 1.0
_CHECK_HELD = 0.05  # seconds between two checks of the jobs that are held ahead


@dataclass(slots=True, eq=False)
class Lease:
    """A job of this worker, from its claim until its outcome is written.

    Attributes:
        job: The job.
        confirmed_at: The time of the monotonic clock when the call that granted or prolonged the
            lease was sent. The lease is valid for at least its length from then on.
        confirm_at: Time to confirm that it has started; infinite until it gets a slot.
        start_confirmed: Whether the database knows that it has started.
        attempt: The attempt that runs it; None before that.
        seconds: The length of the lease.
    """

    job: ClaimedJob
    confirmed_at: float
    confirm_at: float = math.inf
    start_confirmed: bool = False
    attempt: Attempt | None = None
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.seconds = self.job.lease_seconds

    @property
    def prolong_at(self) -> float:
        """The time to prolong it."""
        return self.confirmed_at + self.seconds / 3

    @property
    def due_at(self) -> float:
        """The time to confirm its start or to prolong it, whichever is first."""
        if self.start_confirmed or self.is_settled:  # the report of its outcome confirms it
            return self.prolong_at
        return min(self.prolong_at, self.confirm_at)

    @property
    def ends_at(self) -> float:
        """The time when it may end."""
        return self.confirmed_at + self.seconds

    @property
    def is_valid(self) -> bool:
        """True until the lease may have ended."""
        return time.monotonic() < self.confirmed_at + self.seconds

    @property
    def is_settled(self) -> bool:
        """True once its attempt has an outcome, which is yet to be written."""
        return self.attempt is not None and self.attempt.settled


class Slots:
    """The slots of a worker, the jobs in them, and the jobs that are held ahead.

    A job is held ahead, has a slot, or has an outcome that is yet to be written. It is under a
    lease all the time. `leases` and `find` may be called from another thread.

    Args:
        concurrency: Jobs that run at the same time.
        release: Gives back a job that has not started.
    """

    def __init__(self, concurrency: int, release: Callable[[ClaimedJob], None]) -> None:
        self.concurrency = concurrency
        self._release = release
        self._taken: dict[ClaimedJob, Lease] = {}  # an attempt keeps its slot when it has settled
        self._held: deque[tuple[Lease, float]] = deque()  # with the time to give it back
        self._leases: dict[str, Lease] = {}  # by id of the job
        self._lock = threading.Lock()
        self._pausing: set[str] = set()  # outcomes that pause a limit key
        self._locked: set[str] = set()  # outcomes that wait for a lock of their job's row
        # Since the measurement began: jobs that ended, and seconds in which a slot was taken.
        self._ended, self._busy_seconds, self._busy_since = 0, 0.0, 0.0
        self._last_target = 0  # jobs to hold, as measured before the last answer
        self._timer: asyncio.TimerHandle | None = None

    # --- demand ---

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self.concurrency - len(self._taken)

    @property
    def in_bulk(self) -> bool:
        """True while other jobs are held ahead, since jobs end quickly."""
        return bool(self._held)

    def demand(self) -> int:
        """Return how many jobs to claim now.

        Jobs are claimed ahead while they end quickly, so that the slots have work until the next
        answer: as many as would end within `AHEAD_SECONDS`. That is none where jobs take long.
        """
        if self._pausing:
            return 0
        ahead = self._target_ahead()
        wanted = self.free + ahead - len(self._held)
        # While jobs are to be held ahead, a few are not worth a call. Otherwise a single one is.
        if wanted < max(1, min(ahead // 2, MIN_CLAIM)):
            return 0
        # Outcomes that cannot be written must not pile up. Those of locked jobs are not counted, up
        # to MAX_CLAIM of them: others can be written meanwhile.
        unwritten = len(self._leases) - len(self._held) - len(self._taken)
        unwritten -= min(len(self._locked), MAX_CLAIM)
        return min(wanted, MAX_CLAIM) if unwritten < 2 * self.concurrency + 4 * ahead else 0

    def _target_ahead(self) -> int:
        seconds = self._busy_seconds + self._busy_for()
        measured = 0
        if self._ended >= self.concurrency:
            measured = min(int(self._ended * AHEAD_SECONDS / max(seconds, _MIN_SAMPLE)), MAX_CLAIM)
        # Until there is enough to measure, the rate before the last answer holds.
        return measured if seconds >= _MIN_SAMPLE else max(measured, self._last_target)

    def _busy_for(self) -> float:
        return time.monotonic() - self._busy_since if self._taken else 0.0

    def note_answer(self) -> None:
        """Measure the rate anew from the answer to a claim, unless too few jobs have ended."""
        if self._ended >= self.concurrency:
            self._last_target = self._target_ahead()
            self._ended, self._busy_seconds, self._busy_since = 0, 0.0, time.monotonic()

    def pause_claims(self, job: ClaimedJob) -> None:
        """Claim nothing before the outcome of this job is written: it pauses a limit key."""
        self._pausing.add(job.key)
        self.release_unstarted()

    def note_locked(self, job: ClaimedJob) -> None:
        """Claim on although the outcome of this job waits for a lock of its row."""
        self._pausing.discard(job.key)
        self._locked.add(job.key)

    # --- leases ---

    def leases(self) -> list[Lease]:
        """Return the leases to prolong: of the jobs that got a slot."""
        with self._lock:
            return [lease for lease in self._leases.values() if lease.confirm_at < math.inf]

    def next_confirm_at(self) -> float:
        """Return when to confirm the next start of a job that still runs; infinite without one."""
        running = (lease for lease in self._taken.values() if not lease.is_settled)
        return min((one.confirm_at for one in running if not one.start_confirmed), default=math.inf)

    def find(self, job_key: str) -> Lease | None:
        """Return the lease of a job."""
        return self._leases.get(job_key)

    def add(self, lease: Lease) -> Lease | None:
        """Take a lease; return an older one of the same job, which is lost with that."""
        older = self._leases.get(lease.job.key)
        if older is not None:
            self.drop_lease(older.job)
        with self._lock:
            self._leases[lease.job.key] = lease
        return older

    def lease_of(self, attempt: Attempt) -> Lease | None:
        """Return the lease of an attempt; None if it is lost."""
        lease = self._leases.get(attempt.job.key)
        return lease if lease is not None and lease.attempt is attempt else None

    def drop_lease(self, job: ClaimedJob) -> None:
        """Forget a lease that ended. A job without an attempt loses its slot as well."""
        self._pausing.discard(job.key)
        self._locked.discard(job.key)
        lease = self._leases.get(job.key)
        if lease is None or lease.job.lease_key != job.lease_key:
            return
        if lease.attempt is None:
            self._free(lease.job)
        with self._lock:
            del self._leases[job.key]

    # --- slots ---

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts that have a slot."""
        return [lease.attempt for lease in self._taken.values() if lease.attempt is not None]

    def assign_slot(self, lease: Lease, attempt: Attempt | None) -> None:
        """Give a slot to a job; again with its attempt once its start is confirmed."""
        lease.attempt = attempt
        lease.confirm_at = time.monotonic()
        if not self._taken:
            self._busy_since = lease.confirm_at
        self._taken[lease.job] = lease

    def is_waiting(self, lease: Lease) -> bool:
        """Return whether a job has a slot, and waits until its start is confirmed."""
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
        until = time.monotonic() + min(MAX_HELD, lease.seconds / 3)
        self._held.append((lease, until))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_HELD, self._check_held)

    def pop_held(self) -> Lease | None:
        """Remove and return the job that is held longest, of those whose lease surely holds."""
        dropped, found = 0, None
        while found is None and self._held:
            lease, _ = self._held.popleft()
            if lease.is_valid and self._leases.get(lease.job.key) is lease:
                found = lease
            else:
                self.drop_lease(lease.job)  # another worker may have run it
                dropped += 1
        if dropped:
            _log.warning("Dropped %d jobs that were claimed ahead: their leases ended", dropped)
        return found

    def release_unstarted(self) -> None:
        """Give back all jobs that have not started."""
        for lease in [lease for lease in self._taken.values() if lease.attempt is None]:
            self._free(lease.job)
            self._release(lease.job)
        self._release_held()

    def _release_held(self) -> None:
        while (lease := self.pop_held()) is not None:
            self._release(lease.job)

    def _check_held(self) -> None:
        """Give back all held jobs, once one of them has waited too long for a slot."""
        self._timer = None
        now = time.monotonic()
        if any(until <= now for _, until in self._held):
            self._release_held()
        elif self._held:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_HELD, self._check_held)
