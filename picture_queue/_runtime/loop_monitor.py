"""Detection of code that blocks an event loop, by another thread."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable

from picture_queue._log import Log

_log = Log(__name__)

_MAX_FRAMES = 6  # stack frames of the blocking code that a warning shows
_MAX_INTERVAL = 0.5  # seconds between two timer callbacks in the event loop


class LoopMonitor:
    """Detector of code that blocks the event loop in which it was created.

    Args:
        interval: A function that returns the maximum number of seconds between two timer callbacks,
            which record that the event loop runs.
        describe: A function that takes the name of a task and returns a description of its code, or
            None if the task is unknown.
    """

    def __init__(
        self, interval: Callable[[], float], describe: Callable[[str], str | None]
    ) -> None:
        self._interval = interval
        self._describe = describe
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._loop_ran_at = self._checked_at = time.monotonic()
        self._cpu_time = time.process_time()
        self._blocked_by: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to record the times at which the event loop runs; call this in the event loop."""
        self._record_running()

    def stop(self) -> None:
        """Stop recording."""
        if self._timer is not None:
            self._timer.cancel()

    def _record_running(self) -> None:
        now = time.monotonic()
        if self._blocked_by is not None:
            seconds = now - self._loop_ran_at
            _log.warning("%s blocked the event loop for %.1f s", self._blocked_by, seconds)
            self._blocked_by = None
        self._loop_ran_at = now
        seconds = min(self._interval(), _MAX_INTERVAL)
        self._timer = self._loop.call_later(seconds, self._record_running)

    def check(self, limit: float) -> str | None:
        """Return a warning if the event loop is blocked, else None; call this in another thread.

        Args:
            limit: Seconds for which the event loop may be blocked. The caller checks four times in
                this period.
        """
        try:
            return self._check(limit)
        except Exception as error:  # the caller must still send its heartbeats
            return f"The event loop could not be checked: {error!r}"

    def _check(self, limit: float) -> str | None:
        now = time.monotonic()
        last_checked_at, self._checked_at = self._checked_at, now
        blocked = now - self._loop_ran_at
        cpu_time = time.process_time() - self._cpu_time
        self._cpu_time += cpu_time
        # Checks are a quarter of the limit apart, so the next one may come after the limit.
        if blocked < 0.75 * limit or self._blocked_by is not None:
            return None
        stalled = now - last_checked_at
        if stalled > 0.75 * limit:
            # This thread did not run either. If the process used almost no CPU time (up to 5 %), it
            # was suspended, or the machine was busy. Otherwise some code held the GIL.
            if cpu_time <= 0.05 * stalled:
                return None
            return (
                f"No thread, not even heartbeats, ran for {stalled:.1f} s: a handler held the GIL. "
                "Run such code in a separate process"
            )
        task = asyncio.current_task(self._loop)
        name = task.get_name() if task is not None else "a callback"
        frame, places = sys._current_frames().get(self._loop_thread), list[str]()
        while frame is not None and len(places) < _MAX_FRAMES:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        self._blocked_by = self._describe(name) or f"Code of {name}"
        return (
            f"{self._blocked_by} has blocked the event loop for {blocked:.1f} s, at "
            f"{', called at '.join(places)}: await there, or make the handler a plain def"
        )
