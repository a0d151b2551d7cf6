"""Events of a worker, which tests wait for instead of sleeping."""

import asyncio
from typing import Any

from picture_queue import Worker
from picture_queue.records import ClaimedJob


class Signal:
    """An event that occurs repeatedly, each time with a value."""

    def __init__(self) -> None:
        self._values: asyncio.Queue[Any] = asyncio.Queue()

    async def next(self, timeout: float = 10.0) -> Any:
        """Return the oldest unread value; raise TimeoutError if none comes in `timeout` seconds."""
        async with asyncio.timeout(timeout):
            return await self._values.get()


class Signals:
    """The events of a worker, as `WorkerCalls` lists them. A job is represented by its id."""

    def __init__(self) -> None:
        self.idle = Signal()
        self.claimed = Signal()
        self.outcome = Signal()
        self.reported = Signal()
        self.heartbeat_answered = Signal()
        self.maintained = Signal()
        self.listening = Signal()

    def emit(self, event: str, *values: Any) -> None:
        """Record that an event occurred."""
        recorded = tuple(_replace_jobs(value) for value in values) or (None,)
        signal: Signal = getattr(self, event)
        signal._values.put_nowait(recorded if len(recorded) > 1 else recorded[0])


def _replace_jobs(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_replace_jobs(item) for item in value)
    return value.id if isinstance(value, ClaimedJob) else value


def watch(worker: Worker) -> Signals:
    """Record the events of a worker that has not started, and store them as its ``_signals``."""
    signals: Any = Signals()
    worker._emit = signals.emit
    worker._signals = signals  # type: ignore[attr-defined]
    return signals
