"""Receive the wake-ups of a worker's queues."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from typing import Any

from picture_queue._realtime.event_source import EventSource


class WakeUps:
    """The wake-ups of several queues.

    Args:
        queues: Names of the queues.
        on_change: Called with True when deliveries of a queue have started (earlier wake-ups of the
            queue may have been missed), and with False when they were interrupted.
        on_wake: Called with the reason of each wake-up.

    Attributes:
        joined: The queues whose wake-ups arrive.
    """

    def __init__(
        self,
        queues: Collection[str],
        on_change: Callable[[bool], None],
        on_wake: Callable[[str], None],
    ) -> None:
        self.joined: set[str] = set()
        self._queues = tuple(dict.fromkeys(queues))
        self._on_change = on_change
        self._on_wake = on_wake
        self._listening = ExitStack()

    @property
    def all_arrive(self) -> bool:
        """True while the wake-ups of all queues arrive."""
        return len(self.joined) == len(self._queues)

    def start(self, source: EventSource) -> None:
        """Begin to listen to the events of a source."""
        for queue in self._queues:
            listener = _QueueListener(partial(self._set_joined, queue), self._on_wake)
            self._listening.enter_context(source.listen(f"pq:queue:{queue}", listener))

    def stop(self) -> None:
        """Stop listening."""
        self._listening.close()

    def _set_joined(self, queue: str, joined: bool) -> None:
        self.joined.add(queue) if joined else self.joined.discard(queue)
        self._on_change(joined)


class _QueueListener:
    """The listener for the wake-ups of one queue."""

    def __init__(self, on_change: Callable[[bool], None], on_wake: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._on_wake = on_wake

    def joined(self) -> None:
        self._on_change(True)

    def lost(self) -> None:
        self._on_change(False)

    def message(self, event: str, payload: dict[str, Any]) -> None:
        if event == "wake":
            self._on_wake(str(payload.get("reason")))
