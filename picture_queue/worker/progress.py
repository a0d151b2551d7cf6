"""A sender for the progress of one attempt. A newer value replaces one that waits to be sent."""

from collections.abc import Callable, Coroutine
from typing import Any

from picture_queue.worker._batch_sender import BatchSender

#: Seconds from the end of a call to the start of the next.
INTERVAL = 0.25

Send = Callable[[int, str | None], Coroutine[Any, Any, None]]


class Progress(BatchSender[tuple[int, str | None]]):
    """Sender of the latest progress of a handler, four times a second at most.

    Args:
        send: A function that writes one value and does not raise.
    """

    __slots__ = ()

    def __init__(self, send: Send) -> None:
        super().__init__(lambda values: send(*values[0]), keep=1)

    def put(self, percent: int, message: str | None) -> None:
        """Send a value at once, or when INTERVAL has passed since the last call."""
        self._add((percent, message))

    def _due_at(self, now: float) -> float:
        return self._ended_at + INTERVAL
