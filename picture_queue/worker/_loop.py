"""The life cycle of everything that runs in the background of a worker."""

import asyncio
import logging
from abc import ABC, abstractmethod

_log = logging.getLogger(__name__)

_FAULT_DELAY = 1.0  # seconds between a tick that failed and the next
_CANCEL_TIMEOUT = 1.0  # seconds a cancelled tick gets to end


class BackgroundLoop(ABC):
    """A task that repeats `_tick` until it is stopped. `start` and `stop` may be called twice."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stop_asked = asyncio.Event()

    def start(self) -> None:
        """Start with the first tick."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=type(self).__name__)

    async def stop(self, timeout: float) -> None:
        """End after the current tick, or as soon as `_is_finished` permits.

        Args:
            timeout: Longest wait for that, seconds; then the tick is cancelled.
        """
        self._stop_asked.set()
        self.wake()
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=timeout)
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CANCEL_TIMEOUT)

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stop_asked.is_set()

    def wake(self) -> None:
        """End the current or the next `_wait`."""
        self._woken.set()

    @abstractmethod
    async def _tick(self) -> None:
        """Do what is due, or wait when nothing is."""

    def _is_finished(self) -> bool:
        """Return whether a stop may end the loop now."""
        return True

    async def _run(self) -> None:
        while not (self.stopping and self._is_finished()):
            try:
                await self._tick()
            except Exception:
                _log.exception("%s failed and continues", type(self).__name__)
                await self._sleep(_FAULT_DELAY)

    async def _wait(self, seconds: float | None) -> None:
        """Wait to be woken, for so long at most."""
        await _wait_for(self._woken, seconds)
        self._woken.clear()

    async def _sleep(self, seconds: float) -> None:
        """Sleep; the begin of a stop ends it early.

        A loop that has work left while it stops sleeps in full, so it never spins.
        """
        if self.stopping and not self._is_finished():
            await asyncio.sleep(seconds)
        else:
            await _wait_for(self._stop_asked, seconds)


async def _wait_for(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
