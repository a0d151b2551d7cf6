"""Count the handlers that go on although their attempt is over: each keeps its slot."""

import asyncio
import logging
from collections.abc import Callable

from picture_queue.worker.executor import Attempt

_log = logging.getLogger(__name__)


class Stuck:
    """Watch over attempts that were given up; it tells when too few slots are left.

    A thread cannot be ended from outside, and a coroutine can refuse to: only the end of the
    process frees what they hold.

    Args:
        slots: Jobs the worker may run at the same time.
        patience: Seconds a handler may go on before its slot counts as lost.
        on_too_many: Called once, when half of the slots are.
    """

    def __init__(self, slots: int, patience: float, on_too_many: Callable[[], None]) -> None:
        self._slots = slots
        self._patience = patience
        self._on_too_many = on_too_many
        self._timers: dict[Attempt, asyncio.TimerHandle] = {}
        self._stuck: set[Attempt] = set()
        self._said = False

    def watch(self, attempt: Attempt) -> None:
        """Take an attempt that settled while its handler goes on."""
        loop = asyncio.get_running_loop()
        self._timers[attempt] = loop.call_later(self._patience, self._is_stuck, attempt)

    def ended(self, attempt: Attempt) -> bool:
        """Forget an attempt whose handler has ended; return whether it was late."""
        timer = self._timers.pop(attempt, None)
        self._stuck.discard(attempt)
        if timer is None:
            return False
        timer.cancel()
        return True

    def close(self) -> None:
        """Stop watching."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _is_stuck(self, attempt: Attempt) -> None:
        self._stuck.add(attempt)
        job = attempt.job
        _log.error(
            "The handler of job %s (%s) still runs %g s after it was given up and keeps its slot; "
            "%d of %d slots are lost that way",
            job.id,
            job.job_type,
            self._patience,
            len(self._stuck),
            self._slots,
        )
        if not self._said and 2 * len(self._stuck) >= self._slots:
            self._said = True
            self._on_too_many()
