"""Find code that blocks an event loop, from another thread."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable

from picture_queue._log import Log

_log = Log(__name__)

_FRAMES = 6  # of the code that blocks the event loop
_LONGEST_INTERVAL = 0.5  # seconds between two notes that the event loop runs


class LoopMonitor:
    """Warns of code that blocks the event loop in which it is made.

    Args:
        interval: Returns the seconds between two notes that the event loop runs, at most.
        describe: Returns what code a task runs, by the name of the task; None if it is not known.
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
        """Begin to note that the event loop runs; called in it."""
        self._note_running()

    def stop(self) -> None:
        """Stop noting it."""
        if self._timer is not None:
            self._timer.cancel()

    def _note_running(self) -> None:
        now = time.monotonic()
        if self._blocked_by is not None:
            seconds = now - self._loop_ran_at
            _log.warning("%s blocked the event loop for %.1f s", self._blocked_by, seconds)
            self._blocked_by = None
        self._loop_ran_at = now
        seconds = min(self._interval(), _LONGEST_INTERVAL)
        self._timer = self._loop.call_later(seconds, self._note_running)

    def check(self, limit: float) -> None:
        """Warn if the event loop is blocked; called often, from another thread.

        Args:
            limit: Seconds for which it may be blocked, four times the interval of the checks.
        """
        now = time.monotonic()
        blocked, self._checked_at, before = now - self._loop_ran_at, now, self._checked_at
        cpu_time = time.process_time() - self._cpu_time
        self._cpu_time += cpu_time
        # Checks are a quarter of the limit apart: a block is noticed before it has lasted so long.
        if blocked < 0.75 * limit or self._blocked_by is not None:
            return
        if now - before > 0.75 * limit:
            # This thread did not run either: the process was stopped, or computed all the while.
            if cpu_time > 0.05 * (now - before):  # little on a busy machine
                _log.warning(
                    "No thread could run for %.1f s, nor heartbeats: a handler held the GIL. Run "
                    "what does so in a process of its own",
                    now - before,
                )
            return
        task = asyncio.current_task(self._loop)
        name = task.get_name() if task is not None else "a callback"
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.extract_stack(frame, limit=_FRAMES)
        place = ", called at ".join(f"{at.filename}:{at.lineno}" for at in reversed(stack))
        self._blocked_by = self._describe(name) or f"Code of {name}"
        _log.warning(
            "%s has blocked the event loop for %.1f s, at %s: await there, or make it a plain def",
            self._blocked_by,
            blocked,
            place,
        )
