"""Send the values of one attempt: one call at a time, with all values that wait."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class BatchSender(Generic[T]):
    """A sender that collects values and sends all waiting values in one call.

    Args:
        send: The function that writes values; it must not raise.
        max_waiting: Maximum number of waiting values; the oldest are dropped first.
        interval: Minimum number of seconds from the end of a call to the start of the next one.
        gather_time: Seconds that a value waits for others, so that one call sends all of them.
        batch_size: Number of waiting values that do not wait for others.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Coroutine[Any, Any, None]],
        max_waiting: int,
        interval: float = 0.0,
        gather_time: float = 0.0,
        batch_size: int = 1,
    ) -> None:
        self._send = send
        self._interval = interval
        self._gather_time = gather_time
        self._batch_size = batch_size
        self._waiting: deque[T] = deque(maxlen=max_waiting)
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_call_ended_at = -math.inf  # by the clock of the event loop

    @property
    def has_unsent(self) -> bool:
        """True while a value is not sent yet, or is being sent."""
        return bool(self._waiting) or self._sending is not None

    def put(self, value: T) -> None:
        """Add a value. It is sent in the background, together with others that wait."""
        self._waiting.append(value)
        self._schedule()

    async def flush(self) -> None:
        """Send the waiting values without a pause, and wait for the answer."""
        while self.has_unsent:
            if self._sending is None:
                self._send_waiting()
            elif not self._sending.done():
                await asyncio.wait({self._sending})
            else:
                await asyncio.sleep(0)  # `_on_sent` runs in the next iteration of the loop

    def drop(self) -> None:
        """Discard the values that were not sent yet."""
        self._waiting.clear()
        self._stop_timer()

    def _schedule(self) -> None:
        if not self._waiting or self._sending:
            return
        loop = asyncio.get_running_loop()
        due_at = self._last_call_ended_at + self._interval
        if len(self._waiting) < self._batch_size:
            due_at = max(due_at, loop.time() + self._gather_time)
        if due_at <= loop.time():
            self._send_waiting()
        elif self._timer is None:
            self._timer = loop.call_at(due_at, self._send_waiting)

    def _send_waiting(self) -> None:
        self._stop_timer()
        values = list(self._waiting)
        self._waiting.clear()
        self._sending = asyncio.create_task(self._send(values))
        self._sending.add_done_callback(self._on_sent)

    def _on_sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        self._last_call_ended_at = task.get_loop().time()
        self._schedule()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
