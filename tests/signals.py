"""Events inside a worker, for tests to wait for instead of sleeping."""

import asyncio
from typing import Any

from picture_queue import Worker
from picture_queue.records import ClaimedJob


class Signal:
    """An event that occurs repeatedly, each time with a value."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[Any] = asyncio.Queue()

    async def next(self, timeout: float = 10.0) -> Any:
        """Return the next value that was not returned yet; seconds of the longest wait."""
        async with asyncio.timeout(timeout):
            return await self.seen.get()


class Signals:
    """The events that `WorkerCalls` lists; a job is shown as its id."""

    def __init__(self) -> None:
        self.idle = Signal()
        self.claimed = Signal()
        self.outcome = Signal()
        self.reported = Signal()
        self.heartbeat_answered = Signal()
        self.maintained = Signal()
        self.listening = Signal()

    def emit(self, event: str, *values: Any) -> None:
        """Note that an event occurred."""
        shown = tuple(_shown(value) for value in values) or (None,)
        signal: Signal = getattr(self, event)
        signal.seen.put_nowait(shown if len(shown) > 1 else shown[0])


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_shown(one) for one in value)
    return value.id if isinstance(value, ClaimedJob) else value


def watch(worker: Worker) -> Signals:
    """Watch the events of a worker that has not started; they are its ``_signals`` as well."""
    signals: Any = Signals()
    worker._emit = signals.emit
    worker._signals = signals  # type: ignore[attr-defined]
    return signals
