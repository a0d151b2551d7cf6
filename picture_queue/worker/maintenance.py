"""Maintenance of the project, by one of its workers at a time."""

import logging
import math
import random
import time
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
        on_idle: Called after `idle_at` was set.

    Attributes:
        idle_at: Time of the monotonic clock at which the last round began, if it found nothing to
            do, if another worker does the maintenance, or if it has failed several times; otherwise
            minus infinity.
        is_holder: Whether this worker holds the lease; True until an answer denies it.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        on_work: Callable[[], None],
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(calls)
        self.idle_at = -math.inf
        self.is_holder = True
        self._on_work = on_work
        self._on_idle = on_idle
        self._began_at = 0.0
        self._rounds_without_work = 0  # in a row
        self._failures = 0  # number of failures in a row

    async def _tick(self) -> None:
        self._began_at = time.monotonic()
        call = _rpc.maintain_jobs(worker=self._calls.worker)
        answer = await self._calls.call(call, _CALL_TIMEOUT, counts=False)
        if self._failures >= _WARN_AFTER:
            _log.info("Maintenance works again after %d failures", self._failures)
        self._failures = 0
        self._calls.emit("maintained", answer)
        has_worked = bool(answer.promoted or answer.swept or answer.scheduled or answer.resolved)
        self._rounds_without_work = 0 if has_worked else self._rounds_without_work + 1
        if has_worked:
            self.idle_at = -math.inf
            self._on_work()
        # A round of housekeeping does no other work, and asks for a second round (next_in is 0).
        elif not answer.leased or answer.next_in > 0 or self._rounds_without_work > 1:
            self._set_idle()
        self.is_holder = answer.leased
        if answer.leased:
            # A wake-up ends the wait below, but not this sleep.
            await self._sleep(_MIN_PAUSE)
            await self._wait(max(0.0, answer.next_in - _MIN_PAUSE))
        else:
            jitter = random.uniform(1.0, 1.2)  # noqa: S311 - spreads workers started together
            await self._wait(max(_MIN_PAUSE, answer.next_in) * jitter)

    def _set_idle(self) -> None:
        self.idle_at = self._began_at
        self._on_idle()

    def _log_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= _WARN_AFTER:
            self._set_idle()
        reason = str(error) or type(error).__name__
        level = logging.WARNING if self._failures == _WARN_AFTER else logging.DEBUG
        _log.log(level, "Maintenance has failed %d times in a row: %s", self._failures, reason)
