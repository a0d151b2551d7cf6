"""The one life of everything that runs in the background: start, rounds, stop."""

import asyncio
import logging
from abc import ABC, abstractmethod

_log = logging.getLogger(__name__)

_AFTER_A_FAULT = 1.0  # seconds between a round that failed and the next
_CANCELLING = 1.0  # seconds a cancelled round gets to end


class Service(ABC):
    """A loop of rounds. `start` and `stop` may both be called twice."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._stop_asked = asyncio.Event()

    def start(self) -> None:
        """Begins with the first round."""
        if self._task is None:
            self._task = asyncio.create_task(self._loop(), name=type(self).__name__)

    async def stop(self, patience: float) -> None:
        """Ends after the round there is, or where `_finished` says so.

        Args:
            patience: Longest wait for that, seconds; the round is cut off then.
        """
        self._stop_asked.set()
        self.wake()
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=patience)
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CANCELLING)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_asked.is_set()

    def wake(self) -> None:
        """Ends the present or the next `_pause`."""
        self._news.set()

    @abstractmethod
    async def _round(self) -> None:
        """Does what is due, or pauses when nothing is."""

    def _finished(self) -> bool:
        """Whether a stop may end the loop now."""
        return True

    async def _loop(self) -> None:
        while not (self.stopping and self._finished()):
            try:
                await self._round()
            except Exception:
                _log.exception("%s failed and goes on", type(self).__name__)
                await self._rest(_AFTER_A_FAULT)

    async def _pause(self, seconds: float | None) -> None:
        """Waits to be woken, for so long at most."""
        await _set_within(self._news, seconds)
        self._news.clear()

    async def _rest(self, seconds: float) -> None:
        """Waits; only a stop makes it shorter."""
        await _set_within(self._stop_asked, seconds)


async def _set_within(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
