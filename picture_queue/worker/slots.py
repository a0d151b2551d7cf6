"""The jobs that a worker holds, and how many more it can take."""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from picture_queue.records import ClaimedJob
from picture_queue.worker.executor import Attempt

_log = logging.getLogger(__name__)

#: Jobs of one claim at most, as `claim_jobs` has it, and jobs held ahead at most.
MAX_CLAIM = 1000
#: Seconds of work to hold ahead, at the rate at which jobs end since the last claim was answered.
AHEAD_SECONDS = 0.25
#: Jobs that are worth a claim while others are held ahead, or half of what is to be held.
MIN_CLAIM = 250
#: Seconds a job is held ahead at most: then it is given back, for a worker that has a free slot.
MAX_HELD = 1.0
#: Seconds after which the start of a job is confirmed, unless its outcome is reported before.
CONFIRM_AFTER = 0.1


@dataclass(slots=True, eq=False)
class Lease:
    """A job of this worker, from its claim until its outcome is written.

    Attributes:
        job: The job.
        confirmed_at: Time of the monotonic clock when the call was sent that granted or prolonged
            the lease: it holds at least ``seconds`` from then.
        started_at: Time when it got a slot; None: it is held ahead, or given back.
        start_confirmed: Whether the database knows that it has started.
        attempt: The attempt that runs it; None before that.
    """

    job: ClaimedJob
    confirmed_at: float
    started_at: float | None = None
    start_confirmed: bool = False
    attempt: Attempt | None = None

    @property
    def seconds(self) -> float:
        """Length of the lease."""
        return self.job.lease_seconds

    @property
    def due_at(self) -> float:
        """The time to confirm its start, and then to prolong it."""
        if self.started_at is None:
            return math.inf
        prolong_at = self.confirmed_at + self.seconds / 3
        if self.start_confirmed:
            return prolong_at
        return min(prolong_at, self.started_at + (0 if self.attempt is None else CONFIRM_AFTER))

    @property
    def ends_at(self) -> float:
        """The time when it may end."""
        return self.confirmed_at + self.seconds

    @property
    def holds(self) -> bool:
        """True until the lease may have ended."""
        return time.monotonic() < self.ends_at

    @property
    def is_unconfirmed(self) -> bool:
        """True while a heartbeat should confirm that its handler runs."""
        return not (self.started_at is None or self.start_confirmed or self.is_settled)

    @property
    def is_settled(self) -> bool:
        """True once its attempt has an outcome, which is yet to be written."""
        return self.attempt is not None and self.attempt.settled


class Slots:
    """The slots of a worker, the jobs in them, and the jobs that are held ahead.

    A job is held ahead, runs in a slot, or has an outcome that is yet to be written. It is under a
    lease all the time. `leases` and `find` may be called from another thread.

    Args:
        concurrency: Jobs that run at the same time.
        release: Gives back a job that was held ahead.
    """

    def __init__(self, concurrency: int, release: Callable[[ClaimedJob], None]) -> None:
        self.concurrency = concurrency
        self.running: set[Attempt] = set()  # each takes a slot, also after it has settled
        self._release = release
        self.confirming: set[Lease] = set()  # each has a slot, and starts once that is confirmed
        self._held: deque[tuple[Lease, float]] = deque()  # with the time to give it back
        self._leases: dict[str, Lease] = {}  # by id of the job
        self._lock = threading.Lock()
        self._pausing: set[str] = set()
        self._locked: set[str] = set()  # outcomes that wait for a lock of their job's row
        self._last_claimed = 0
        self._ended = 0  # since the last claim was answered
        self._answered_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    # --- demand ---

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self.concurrency - len(self.running) - len(self.confirming)

    @property
    def in_bulk(self) -> bool:
        """True while other jobs are held ahead, since jobs end quickly."""
        return bool(self._held)

    def demand(self) -> int:
        """Return how many jobs to claim now.

        Jobs are claimed ahead while they end quickly, so that the slots have work until the next
        answer: as many as would end within `AHEAD_SECONDS`. That is none where jobs take long.
        """
        ahead = self._target_ahead()
        wanted = self.free + ahead - len(self._held)
        unwritten = len(self._leases) - len(self._held) - self.concurrency + self.free
        unwritten -= min(len(self._locked), MAX_CLAIM)  # they hold up no others
        # A few are not worth a call while others are held, and outcomes that cannot be written
        # must not pile up.
        if (
            wanted < max(1, min(ahead // 2, MIN_CLAIM))
            or unwritten >= 2 * self.concurrency + 4 * ahead
        ):
            return 0
        return 0 if self._pausing else min(wanted, MAX_CLAIM)

    def _target_ahead(self) -> int:
        if self._ended < self.concurrency:
            return 0
        elapsed = max(time.monotonic() - self._answered_at, 1e-3)
        expected = int(self._ended * AHEAD_SECONDS / elapsed)
        # The first few are too small a sample.
        return min(expected, 16 * self._last_claimed, MAX_CLAIM)

    def note_answer(self, count: int) -> None:
        """Note that a claim was answered with so many jobs, which can end from here on."""
        self._last_claimed = count
        self._ended = 0
        self._answered_at = time.monotonic()

    def pause_claims(self, job: ClaimedJob) -> None:
        """Claim nothing before the outcome of this job is written: it pauses a limit key."""
        self._pausing.add(job.key)
        self.release_held()

    def note_locked(self, job: ClaimedJob) -> None:
        """Claim on although the outcome of this job waits for a lock of its row."""
        self._pausing.discard(job.key)
        self._locked.add(job.key)

    # --- leases ---

    def leases(self) -> list[Lease]:
        """Return the leases to prolong: of the jobs that have started."""
        with self._lock:
            return [lease for lease in self._leases.values() if lease.started_at is not None]

    def find(self, job_key: str) -> Lease | None:
        """Return the lease of a job."""
        return self._leases.get(job_key)

    def add(self, lease: Lease) -> Lease | None:
        """Take a lease; return an older one of the same job, which is lost with that."""
        with self._lock:
            older = self._leases.pop(lease.job.key, None)
            self._leases[lease.job.key] = lease
        if older is not None:
            self.confirming.discard(older)
        return older

    def drop(self, job: ClaimedJob) -> bool:
        """Forget a lease that ended; return whether it was held."""
        self._pausing.discard(job.key)
        self._locked.discard(job.key)
        lease = self._leases.get(job.key)
        if lease is None or lease.job.lease_key != job.lease_key:
            return False
        self.confirming.discard(lease)
        with self._lock:
            del self._leases[job.key]
        return True

    # --- slots ---

    def confirm(self, lease: Lease) -> None:
        """Give a slot to a job whose start is to be confirmed before."""
        lease.started_at = time.monotonic()
        self.confirming.add(lease)

    def start(self, lease: Lease, attempt: Attempt) -> None:
        """Give a slot to an attempt."""
        self.confirming.discard(lease)
        lease.started_at = time.monotonic()
        lease.attempt = attempt
        self.running.add(attempt)

    def end(self, attempt: Attempt) -> None:
        """Free the slot of an attempt of which nothing runs any more."""
        self.running.discard(attempt)
        self._ended += 1

    def hold(self, lease: Lease) -> None:
        """Hold a job until a slot is free."""
        seconds = min(MAX_HELD, lease.seconds / 3)
        self._held.append((lease, time.monotonic() + seconds))
        if self._timer is None:
            self._set_timer(seconds)

    def next_held(self) -> Lease | None:
        """Return the job that is held longest, of those whose lease surely holds."""
        dropped, found = 0, None
        while found is None and self._held:
            lease, _ = self._held.popleft()
            if self._leases.get(lease.job.key) is not lease:
                dropped += 1
            elif not lease.holds:  # another worker may have run it
                self.drop(lease.job)
                dropped += 1
            else:
                found = lease
        if dropped:
            _log.warning("Dropped %d jobs that were claimed ahead: their leases ended", dropped)
        return found

    def release_held(self) -> None:
        """Give back all jobs that have not started."""
        while self.confirming:
            self._release(self.confirming.pop().job)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (lease := self.next_held()) is not None:
            self._release(lease.job)

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check_held)

    def _check_held(self) -> None:
        self._timer = None
        if self._held:
            rest = min(until for _, until in self._held) - time.monotonic()
            self._set_timer(rest) if rest > 0 else self.release_held()
