"""A sender of the values of one attempt: one call at a time, and a pause between two."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class BatchSender(ABC, Generic[T]):
    """Collect values, and send those that wait in one call.

    Args:
        send: Writes values; raises nothing.
        keep: Values kept at most; the oldest are dropped first.
    """

    __slots__ = ("_ended_at", "_send", "_sending", "_timer", "_waiting")

    def __init__(self, send: Callable[[list[T]], Coroutine[Any, Any, None]], keep: int) -> None:
        self._send = send
        self._waiting: deque[T] = deque(maxlen=keep)
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended_at = -math.inf  # of the last call, by the clock of the event loop

    @abstractmethod
    def _due_at(self, now: float) -> float:
        """Return when to send the values that wait, by the clock of the event loop."""

    @property
    def has_unsent(self) -> bool:
        """True while a value is not sent yet, or is being sent."""
        return bool(self._waiting) or self._sending is not None

    async def flush(self) -> None:
        """Send the values that wait, without a pause, and wait for the answer."""
        while self.has_unsent:
            if self._sending is None:
                self._begin()
            elif not self._sending.done():
                await asyncio.wait({self._sending})
            else:
                await asyncio.sleep(0)  # its callback comes with the next turn of the loop

    def drop(self) -> None:
        """Forget the values that were not sent yet."""
        self._waiting.clear()
        self._stop_timer()

    def _add(self, value: T) -> None:
        self._waiting.append(value)
        self._schedule()

    def _schedule(self) -> None:
        if not self._waiting or self._sending:
            return
        loop = asyncio.get_running_loop()
        due_at = self._due_at(loop.time())
        if due_at <= loop.time():
            self._begin()
        elif self._timer is None:
            self._timer = loop.call_at(due_at, self._begin)

    def _begin(self) -> None:
        self._stop_timer()
        if self._waiting:
            values = list(self._waiting)
            self._waiting.clear()
            self._sending = asyncio.create_task(self._send(values))
            self._sending.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        self._ended_at = task.get_loop().time()
        self._schedule()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
