"""Maintenance of the project, by one of its workers at a time."""

import logging
import random
from collections.abc import Callable

from picture_queue import _rpc
from picture_queue._log import Log
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker._loop import BackgroundLoop

_log = Log(__name__)

_CALL_TIMEOUT = 10.0  # seconds, retries included
#: Minimum number of seconds between two calls: the database does other work as well.
_MIN_PAUSE = 0.01
#: Number of failures in a row before a warning. Single failures are normal, for example when the
#: database is restarted.
_WARN_AFTER = 3


class MaintenanceLoop(BackgroundLoop):
    """The loop that runs the maintenance of the project while this worker holds the lease for it.

    The database decides who holds the lease, and answers each call with the time of the next one.
    A failure of maintenance does not mean that other calls fail, so it is logged separately.

    Args:
        on_work: Called after a call that may have made jobs claimable.

    Attributes:
        is_holder: Whether this worker holds the lease; True until an answer denies it.
    """

    def __init__(self, calls: WorkerCalls, on_work: Callable[[], None]) -> None:
        super().__init__(calls)
        self.is_holder = True
        self._on_work = on_work
        self._failures = 0  # number of failures in a row

    async def _tick(self) -> None:
        call = _rpc.maintain_jobs(worker=self._calls.worker)
        answer = await self._calls.call(call, _CALL_TIMEOUT, counts=False)
        if self._failures >= _WARN_AFTER:
            _log.info("Maintenance works again after %d failures", self._failures)
        self._failures = 0
        self._calls.emit("maintained", answer)
        if answer.promoted or answer.swept or answer.scheduled or answer.resolved:
            self._on_work()
        self.is_holder = answer.leased
        if answer.leased:
            # A wake-up ends the wait below, but not this sleep.
            await self._sleep(_MIN_PAUSE)
            await self._wait(max(0.0, answer.next_in - _MIN_PAUSE))
        else:
            jitter = random.uniform(1.0, 1.2)  # noqa: S311 - spreads workers started together
            await self._wait(max(_MIN_PAUSE, answer.next_in) * jitter)

    def _log_failure(self, error: Exception) -> None:
        self._failures += 1
        reason = str(error) or type(error).__name__
        level = logging.WARNING if self._failures == _WARN_AFTER else logging.DEBUG
        _log.log(level, "Maintenance has failed %d times in a row: %s", self._failures, reason)
