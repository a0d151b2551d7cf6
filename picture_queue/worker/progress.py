"""Progress of one attempt: the latest value wins."""

from collections.abc import Callable, Coroutine
from typing import Any

from picture_queue.worker._trickle import Trickle

#: Seconds between the end of a report and the next.
INTERVAL = 0.25

Send = Callable[[int, str | None], Coroutine[Any, Any, None]]


class Progress(Trickle[tuple[int, str | None]]):
    """Thins out what a handler says.

    Args:
        send: Writes one value; raises nothing.
    """

    __slots__ = ()

    def __init__(self, send: Send) -> None:
        super().__init__(lambda values: send(*values[0]), keep=1)

    def put(self, percent: int, message: str | None) -> None:
        """Takes a value; it goes out at once or when its turn comes."""
        self._add((percent, message))

    def _due(self, now: float) -> float:
        return self._ended_at + INTERVAL
