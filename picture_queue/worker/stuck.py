"""Count the handlers that continue although their attempt is over: each keeps its slot."""

import asyncio
from collections.abc import Callable

from picture_queue._log import Log
from picture_queue.errors import PictureQueueError, WorkerStuck
from picture_queue.worker.executor import Attempt

_log = Log(__name__)


class StuckDetector:
    """Watches attempts that were given up, and reports when too few slots are left.

    A thread cannot be ended from outside, and a coroutine can refuse to: only the end of the
    process frees what they hold.

    Args:
        slots: Jobs the worker may run at the same time.
        timeout: Seconds a handler may continue before its slot counts as lost.
        on_failure: Called once with the reason to end, when half of the slots are.
    """

    def __init__(
        self, slots: int, timeout: float, on_failure: Callable[[PictureQueueError], None]
    ) -> None:
        self._slots = slots
        self._timeout = timeout
        self._on_failure = on_failure
        self._stuck: list[Attempt] = []
        self._closed = False

    def watch(self, attempt: Attempt) -> None:
        """Watch an attempt that settled while its handler continues."""
        asyncio.get_running_loop().call_later(self._timeout, self._check, attempt)

    def close(self) -> None:
        """Stop reporting."""
        self._closed = True

    def _check(self, attempt: Attempt) -> None:
        if attempt.ended or self._closed:
            return
        self._stuck = [other for other in self._stuck if not other.ended] + [attempt]
        _log.error(
            f"The handler of job {attempt.job.id} ({attempt.job.job_type}) still runs "
            f"{self._timeout:g} s after it was given up and keeps its slot; "
            f"{len(self._stuck)} of {self._slots} slots are lost that way"
        )
        if 2 * len(self._stuck) >= self._slots:
            self.close()
            self._on_failure(
                WorkerStuck(
                    "Handlers that do not end hold half of the worker's slots",
                    hint="Start a new process, and give what they wait for a timeout of its own",
                )
            )
