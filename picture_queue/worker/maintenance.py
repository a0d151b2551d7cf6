"""Maintenance of the project: one of its workers does it at a time."""

import asyncio
import logging
import random
from collections.abc import Callable

from picture_queue import _rpc
from picture_queue.worker._link import Pauses, Transport
from picture_queue.worker._service import Service
from picture_queue.worker._signals import Signals

_log = logging.getLogger(__name__)

_CALL_TIMEOUT = 10.0  # seconds, repetitions included
#: Seconds between two rounds at least: the database does other work as well.
_MIN_PAUSE = 0.01
#: Failures in a row before a warning. One alone, such as a restart of the database, is no news.
_WARN_AFTER = 3


class MaintenanceLoop(Service):
    """Runs the maintenance of the project while this worker holds the lease for it.

    The database decides who holds the lease, and answers each call with the time of the next one.

    Args:
        transport: Makes the calls. A failure of maintenance says nothing about other calls, so it
            has its own log and its own pauses.
        worker: Name of the worker.
        on_work: Called after a round that may have made jobs claimable.
        signals: For tests.
    """

    def __init__(
        self, transport: Transport, worker: str, on_work: Callable[[], None], signals: Signals
    ) -> None:
        super().__init__()
        self._transport = transport
        self._worker = worker
        self._on_work = on_work
        self._signals = signals
        self._pauses = Pauses(first=0.2, longest=5.0)
        self._failures = 0  # in a row
        self._is_holder = True  # until an answer says otherwise

    def run_now(self) -> None:
        """Run a round before the planned time, if this worker holds the lease."""
        if self._is_holder:
            self.wake()

    def take_over(self) -> None:
        """Ask for the lease at once: its holder has given it up."""
        self.wake()

    async def _round(self) -> None:
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                answer = await self._transport.call(_rpc.maintain_jobs(worker=self._worker))
        except Exception as error:
            self._log_failure(error)
            await self._rest(self._pauses.next())
            return
        if self._failures >= _WARN_AFTER:
            _log.info("Maintenance works again after %d failures", self._failures)
        self._failures = 0
        self._pauses.reset()
        self._signals.maintained.emit(answer)
        if answer.promoted or answer.swept or answer.scheduled or answer.settled:
            self._on_work()
        self._is_holder = answer.leased
        if answer.leased:
            await self._rest(_MIN_PAUSE)
            await self._pause(max(0.0, answer.next_in - _MIN_PAUSE))
        else:
            # Jitter spreads the calls of workers started together.
            await self._pause(max(_MIN_PAUSE, answer.next_in) * random.uniform(1.0, 1.2))  # noqa: S311

    def _log_failure(self, error: Exception) -> None:
        self._failures += 1
        reason = str(error) or type(error).__name__
        level = logging.WARNING if self._failures == _WARN_AFTER else logging.DEBUG
        _log.log(level, "Maintenance has failed %d times in a row: %s", self._failures, reason)
