"""Keeps the leases of a worker alive: one call for all of them."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from logging import getLogger

from picture_queue import _rpc
from picture_queue._rpc import Heartbeat as Answer
from picture_queue.claimed_job import ClaimedJob
from picture_queue.worker._link import Link, Pauses
from picture_queue.worker._service import Service
from picture_queue.worker._signals import Signals
from picture_queue.worker.executor import Attempt, Stop

_log = getLogger(__name__)

#: Seconds between two signs of life when no lease asks for more: a worker that is not heard of for
#: a minute is neither shown as alive nor woken.
PRESENCE = 20.0
_SHORTEST_WAIT = 1.0  # seconds for an answer, however short the lease


@dataclass(slots=True, eq=False)
class Lease:
    """A lease of this worker.

    Attributes:
        attempt: Who works under it.
        confirmed_at: When the question was sent whose answer granted or prolonged it, by the clock
            of the event loop: the lease holds at least ``seconds`` from then.
    """

    attempt: Attempt
    confirmed_at: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.attempt.job.lease_seconds

    @property
    def due(self) -> float:
        """When it wants to be prolonged."""
        return self.confirmed_at + self.seconds / 3

    @property
    def ends(self) -> float:
        """Until when it surely holds."""
        return self.confirmed_at + self.seconds


class Leases:
    """The leases of the jobs that run, or whose outcome is not reported yet."""

    def __init__(self) -> None:
        self._held: dict[str, Lease] = {}  # by id of the job

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._held.values())

    def ids(self) -> dict[str, str]:
        """Returns the lease of each job."""
        return {key: lease.attempt.job.lease_key for key, lease in self._held.items()}

    def add(self, lease: Lease) -> None:
        """Takes a lease; one that was held for the same job is lost with that."""
        key = lease.attempt.job.key
        older = self._held.get(key)
        self._held[key] = lease
        if older is not None:
            older.attempt.stop(Stop.LOST)

    def drop(self, job: ClaimedJob) -> None:
        """Forgets a lease that ended."""
        held = self._held.get(job.key)
        if held is not None and held.attempt.job.lease_key == job.lease_key:
            del self._held[job.key]


class Heartbeat(Service):
    """Prolongs the leases at a third of their length, and learns which jobs to stop.

    Args:
        link: Makes the calls.
        worker: Name of the worker.
        leases: What to prolong.
        signals: For tests.
    """

    def __init__(self, link: Link, worker: str, leases: Leases, signals: Signals) -> None:
        super().__init__()
        self._link = link
        self._worker = worker
        self._leases = leases
        self._signals = signals
        self._pauses = Pauses(first=0.2, longest=2.0)
        self._clock = asyncio.get_running_loop().time
        self._beaten_at = self._clock()
        self._planned = self._beaten_at
        self._asked = False

    def beat_now(self) -> None:
        """Asks before the time is there: something was cancelled."""
        self._asked = True
        self.wake()

    def hold(self, lease: Lease) -> None:
        """Keeps a new lease alive from now on."""
        self._leases.add(lease)
        if lease.due < self._planned:
            self.wake()

    async def _round(self) -> None:
        due = [lease.due for lease in self._leases]
        self._planned = min([*due, self._beaten_at + PRESENCE])
        wait = self._planned - self._clock()
        if self._asked or wait <= 0:
            self._asked = False
            await self._beat()
        else:
            await self._pause(wait)

    async def _beat(self) -> None:
        asked_at = self._clock()
        leases = list(self._leases)
        call = _rpc.heartbeat_jobs(self._worker, self._leases.ids())
        try:
            answer = await self._link.call(call, _patience(leases, asked_at))
        except Exception:  # the link has logged it
            self._let_go_of_the_expired()
            await self._rest(self._pauses.next())
            return
        self._pauses.reset()
        self._beaten_at = asked_at
        self._take(answer, leases, asked_at)
        self._signals.beaten.emit(None)

    def _take(self, answer: Answer, leases: list[Lease], asked_at: float) -> None:
        for lease in leases:
            key = lease.attempt.job.key
            if key in answer.lost:
                self._lose(lease, "the database gave it to somebody else or ended it")
                continue
            lease.confirmed_at = asked_at
            if key in answer.cancel:
                lease.attempt.stop(Stop.CANCEL)

    def _let_go_of_the_expired(self) -> None:
        now = self._clock()
        for lease in list(self._leases):
            # An outcome is kept: nobody may have swept the job when the database is back.
            if now >= lease.ends and not lease.attempt.settled:
                self._lose(lease, "no heartbeat was answered for its whole length")

    def _lose(self, lease: Lease, why: str) -> None:
        job = lease.attempt.job
        if not lease.attempt.settled:
            _log.warning("The lease of job %s is lost and its handler stopped: %s", job.id, why)
        self._leases.drop(job)
        lease.attempt.stop(Stop.LOST)


def _patience(leases: list[Lease], now: float) -> float:
    """Seconds to wait for an answer: room for another try while all leases hold."""
    if not leases:
        return PRESENCE
    soonest = min(lease.ends for lease in leases) - now
    return max(_SHORTEST_WAIT, min(soonest, min(lease.seconds for lease in leases) / 3))
