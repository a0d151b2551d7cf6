"""Progress of one attempt: at most one report on its way, and the latest value wins."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

#: Seconds between the end of a report and the next.
INTERVAL = 0.25

Send = Callable[[int, str | None], Coroutine[Any, Any, None]]


class Progress:
    """Thins out what a handler says.

    Args:
        send: Writes one value; raises nothing.
    """

    __slots__ = ("_latest", "_not_before", "_send", "_sending", "_timer")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._latest: tuple[int, str | None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0

    def put(self, percent: int, message: str | None) -> None:
        """Takes a value; it goes out at once or when its turn comes."""
        self._latest = (percent, message)
        self._schedule()

    async def flush(self) -> None:
        """Sends what was not sent yet, without a pause, and waits for it."""
        self._stop_timer()
        while self._latest or self._sending:
            if self._sending is None:
                self._begin()
            elif not self._sending.done():
                await asyncio.wait({self._sending})
            else:
                await asyncio.sleep(0)  # its callback comes with the next turn of the loop

    def drop(self) -> None:
        """Forgets what was not sent yet: the state that follows says more."""
        self._latest = None
        self._stop_timer()

    def _schedule(self) -> None:
        if self._latest is None or self._sending or self._timer:
            return
        loop = asyncio.get_running_loop()
        delay = self._not_before - loop.time()
        if delay <= 0:
            self._begin()
        else:
            self._timer = loop.call_later(delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        value, self._latest = self._latest, None
        if value is not None:
            self._sending = asyncio.create_task(self._send(*value))
            self._sending.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        self._not_before = task.get_loop().time() + INTERVAL
        self._schedule()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
