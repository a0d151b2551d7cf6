"""Jobs that are claimed before there is a slot for them, and how many of them are worth having."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from picture_queue.claimed_job import ClaimedJob

_log = logging.getLogger(__name__)

#: Jobs claimed ahead at most.
MOST = 1000
#: Seconds a job waits for a slot at most, or a third of its lease: then it goes back.
PATIENCE = 1.0
_WEIGHT = 0.1  # of a new measurement in a moving average
_NEVER = 3600.0  # seconds a job is taken to last until one has ended


class Prefetch:
    """Holds what was claimed ahead, in the order of the claim.

    As many are worth having as end during two round trips: so the slots have work while the next
    answer is on its way. Of jobs that last long that is none.

    A job whose lease has passed is dropped, since another worker may have run it.

    Args:
        slots: Jobs the worker runs at the same time.
        give_back: Takes a job that waited too long.
    """

    def __init__(self, slots: int, give_back: Callable[[ClaimedJob], None]) -> None:
        self._slots = slots
        self._give_back = give_back
        self._waiting: deque[tuple[ClaimedJob, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._duration = _NEVER
        self._round_trip = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def worth_having(self) -> int:
        """How many jobs to hold."""
        return min(MOST, int(2 * self._round_trip * self._slots / self._duration))

    @property
    def worth_a_call(self) -> int:
        """How many jobs are worth a claim that does not travel with a report."""
        ahead = self.worth_having
        return min(ahead // 2, 250) if ahead > self._slots else 1

    @property
    def is_low(self) -> bool:
        """Whether it is time to claim more."""
        return len(self._waiting) + self.worth_a_call <= self.worth_having

    def lasted(self, seconds: float) -> None:
        """Learns how long a job took."""
        seconds = max(seconds, 1e-6)
        if self._duration == _NEVER:
            self._duration = seconds
        self._duration += _WEIGHT * (seconds - self._duration)

    def answered(self, seconds: float) -> None:
        """Learns how long a claim took."""
        self._round_trip += _WEIGHT * (seconds - self._round_trip)

    def put(self, job: ClaimedJob, asked_at: float) -> None:
        """Takes a job, and when its lease was asked for by the clock of the event loop."""
        self._waiting.append((job, asked_at))
        if self._timer is None:
            self._plan()

    def next(self) -> tuple[ClaimedJob, float] | None:
        """Returns the job that waits longest, of those whose lease has not passed."""
        self._drop_expired()
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> None:
        """Gives back what waits, and claims nothing ahead until a job has ended again."""
        self._duration = _NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (following := self.next()) is not None:
            self._give_back(following[0])

    def _plan(self) -> None:
        job, asked_at = self._waiting[0]
        due = asked_at + min(PATIENCE, job.lease_seconds / 3)
        self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        self._drop_expired()
        while self._waiting:
            job, asked_at = self._waiting[0]
            if now < asked_at + min(PATIENCE, job.lease_seconds / 3):
                self._plan()
                return
            self._waiting.popleft()
            self._give_back(job)
            self._drop_expired()
            # What keeps them waiting lasts long, whatever was measured before.
            self._duration = max(self._duration, PATIENCE)

    def _drop_expired(self) -> None:
        dropped = 0
        while self._waiting and not lease_holds(*self._waiting[0]):
            self._waiting.popleft()
            dropped += 1
        if dropped:
            _log.warning(
                "Dropped %d jobs that were held past their lease: a handler blocked the event loop",
                dropped,
            )


def lease_holds(job: ClaimedJob, asked_at: float) -> bool:
    """Return whether a lease that was not prolonged surely holds.

    Args:
        job: The job as it was claimed.
        asked_at: When the claim was sent, by the clock of the event loop.
    """
    return asyncio.get_running_loop().time() < asked_at + job.lease_seconds
