"""Sends what gathers about one attempt: at most one call on its way, and a pause between two."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Trickle(ABC, Generic[T]):
    """Gathers values and sends what is there in one call.

    Args:
        send: Writes values; raises nothing.
        keep: Values kept at most; the oldest go first.
    """

    __slots__ = ("_ended_at", "_send", "_sending", "_timer", "_waiting")

    def __init__(self, send: Callable[[list[T]], Coroutine[Any, Any, None]], keep: int) -> None:
        self._send = send
        self._waiting: deque[T] = deque(maxlen=keep)
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended_at = -math.inf  # when the last call ended, by the clock of the event loop

    @abstractmethod
    def _due(self, now: float) -> float:
        """Returns when what waits may go out, by the clock of the event loop."""

    @property
    def waiting(self) -> bool:
        """Whether something was not sent yet, or is on its way."""
        return bool(self._waiting) or self._sending is not None

    async def flush(self) -> None:
        """Sends what was not sent yet, without a pause, and waits for it."""
        self._stop_timer()
        while self.waiting:
            if self._sending is None:
                self._begin()
            elif not self._sending.done():
                await asyncio.wait({self._sending})
            else:
                await asyncio.sleep(0)  # its callback comes with the next turn of the loop

    def drop(self) -> None:
        """Forgets what was not sent yet."""
        self._waiting.clear()
        self._stop_timer()

    def _add(self, value: T) -> None:
        self._waiting.append(value)
        self._schedule()

    def _schedule(self) -> None:
        if not self._waiting or self._sending:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = self._due(now)
        if due <= now:
            self._stop_timer()
            self._begin()
        elif self._timer is None:
            self._timer = loop.call_at(due, self._begin)

    def _begin(self) -> None:
        self._timer = None
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
