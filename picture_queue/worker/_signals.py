"""What happens inside a worker, for tests to wait for instead of sleeping.

In production nobody watches, and a signal costs one comparison.
"""

import asyncio
from typing import Generic, TypeVar
from uuid import UUID

from picture_queue.records import Maintenance

T = TypeVar("T")


class Signal(Generic[T]):
    """Something that happens again and again, each time with a value."""

    def __init__(self) -> None:
        self._seen: asyncio.Queue[T] | None = None

    @property
    def watched(self) -> bool:
        """Whether anybody would see it: where a value costs something to make."""
        return self._seen is not None

    def emit(self, value: T) -> None:
        """Says that it happened."""
        if self._seen is not None:
            self._seen.put_nowait(value)

    def watch(self) -> None:
        """Remembers from now on what happens."""
        self._seen = asyncio.Queue()

    async def next(self, timeout: float = 10.0) -> T:
        """Returns the next value that was not returned yet.

        Args:
            timeout: Longest wait, seconds.

        Raises:
            TimeoutError: It did not happen in time.
        """
        assert self._seen is not None, "watch first"  # noqa: S101 - a mistake in a test
        async with asyncio.timeout(timeout):
            return await self._seen.get()


class Signals:
    """The signals of one worker.

    Attributes:
        idle: A claim found less than it asked for, twice in a row.
        claimed: The ids of the jobs of a claim that found some.
        settled: A job's attempt has an outcome, or none because its lease is lost.
        reported: The database's answer to an outcome: ok, repeated or stale.
        beaten: A heartbeat was answered.
        maintained: The answer to a call for maintenance.
        listening: The number of queues whose wake-ups are heard.
    """

    def __init__(self) -> None:
        self.idle: Signal[None] = Signal()
        self.claimed: Signal[tuple[UUID, ...]] = Signal()
        self.settled: Signal[tuple[UUID, str | None]] = Signal()
        self.reported: Signal[tuple[UUID, str]] = Signal()
        self.beaten: Signal[None] = Signal()
        self.maintained: Signal[Maintenance] = Signal()
        self.listening: Signal[int] = Signal()

    def watch(self) -> "Signals":
        """Watches all of them and returns itself."""
        for signal in vars(self).values():
            signal.watch()
        return self
