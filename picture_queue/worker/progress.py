"""The progress of one attempt. Of the values that wait, only the latest is sent."""

from collections.abc import Callable, Coroutine
from typing import Any

from picture_queue.worker._batch_sender import BatchSender

#: Seconds between the end of a report and the next.
INTERVAL = 0.25

Send = Callable[[int, str | None], Coroutine[Any, Any, None]]


class Progress(BatchSender[tuple[int, str | None]]):
    """Sender of the latest progress of a handler, four times a second at most.

    Args:
        send: Writes one value; raises nothing.
    """

    __slots__ = ()

    def __init__(self, send: Send) -> None:
        super().__init__(lambda values: send(*values[0]), keep=1)

    def put(self, percent: int, message: str | None) -> None:
        """Take a value; it is sent at once, or after the pause."""
        self._add((percent, message))

    def _due_at(self, now: float) -> float:
        return self._ended_at + INTERVAL
