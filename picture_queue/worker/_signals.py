"""Events inside a worker, for tests to wait for instead of sleeping.

In production nobody watches, and a signal costs one comparison. SIGTERM and SIGINT are in
`_stop_signals`.
"""

import asyncio
from typing import Generic, TypeVar
from uuid import UUID

from picture_queue.records import Maintenance

T = TypeVar("T")


class Signal(Generic[T]):
    """An event that occurs repeatedly, each time with a value."""

    def __init__(self) -> None:
        self._seen: asyncio.Queue[T] | None = None

    @property
    def watched(self) -> bool:
        """True if somebody listens; ask before making a costly value."""
        return self._seen is not None

    def emit(self, value: T) -> None:
        """Note that the event occurred."""
        if self._seen is not None:
            self._seen.put_nowait(value)

    def watch(self) -> None:
        """Keep values from now on."""
        self._seen = asyncio.Queue()

    async def next(self, timeout: float = 10.0) -> T:
        """Return the next value that was not returned yet.

        Args:
            timeout: Longest wait, seconds.

        Raises:
            TimeoutError: The event did not occur in time.
        """
        assert self._seen is not None, "watch first"  # noqa: S101 - a mistake in a test
        async with asyncio.timeout(timeout):
            return await self._seen.get()


class Signals:
    """The signals of one worker."""

    def __init__(self) -> None:
        #: A claim found less than it asked for, twice in a row.
        self.idle: Signal[None] = Signal()
        #: The ids of the jobs of a claim that found some.
        self.claimed: Signal[tuple[UUID, ...]] = Signal()
        #: An attempt has an outcome, or none because its lease is lost.
        self.settled: Signal[tuple[UUID, str | None]] = Signal()
        #: The database's answer to an outcome: ok, repeated or stale.
        self.reported: Signal[tuple[UUID, str]] = Signal()
        #: A heartbeat was answered.
        self.beaten: Signal[None] = Signal()
        #: The answer to a call for maintenance.
        self.maintained: Signal[Maintenance] = Signal()
        #: The number of queues whose wake-ups arrive.
        self.listening: Signal[int] = Signal()

    def watch(self) -> "Signals":
        """Watch all of them and return itself."""
        for signal in vars(self).values():
            signal.watch()
        return self
