"""The end of a run that stops by itself: after a number of jobs, or when no job is due."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from picture_queue.worker.claimer import Claimer
    from picture_queue.worker.maintenance import MaintenanceLoop
    from picture_queue.worker.slots import Slots


@dataclass(frozen=True, slots=True)
class DrainResult:
    """The number of attempts that a drain has run and reported.

    Attributes:
        processed: Attempts that did not fail.
        errors: Attempts that failed, whether or not their jobs are tried again.
    """

    processed: int = 0
    errors: int = 0


class DrainMonitor:
    """Detector of the end of a run.

    A run ends when `WorkerSettings.max_jobs` jobs have run. A drain also ends when no job is due: a
    round of maintenance had nothing to do, and a claim after the round returned no job. Both must
    begin after the last outcome was written, since an outcome can make other jobs due.

    Args:
        slots: The jobs of the worker.
        claimer: The loop that claims jobs.
        maintenance: The loop that makes delayed jobs due.
        ends_when_idle: True for a drain.
        on_end: Called when the run should end; it may be called more than once.
    """

    def __init__(
        self,
        slots: "Slots",
        claimer: "Claimer",
        maintenance: "MaintenanceLoop",
        ends_when_idle: bool,
        on_end: Callable[[], None],
    ) -> None:
        self._slots = slots
        self._claimer = claimer
        self._maintenance = maintenance
        self._ends_when_idle = ends_when_idle
        self._on_end = on_end
        self._last_lease_ended_at = -math.inf

    def on_leases_ended(self) -> None:
        """Record that leases have ended, and check whether the run should end."""
        self._last_lease_ended_at = time.monotonic()
        self.check()

    def check(self) -> None:
        """End the run if nothing is left to do; otherwise request the next step of the check."""
        if self._slots.has_leases:
            return
        if self._slots.is_used_up:
            self._on_end()
        elif not self._ends_when_idle:
            return
        elif self._maintenance.idle_at <= self._last_lease_ended_at:
            self._maintenance.wake()
        elif self._claimer.empty_at <= self._maintenance.idle_at:
            self._claimer.request_claim()
        else:
            self._on_end()
