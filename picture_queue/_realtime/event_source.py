"""Protocols of event sources and of the listeners that they call."""

from contextlib import AbstractContextManager
from typing import Any, Protocol


class Listener(Protocol):
    """A receiver of the events of a topic. Its methods run in the event loop and must not block."""

    def joined(self) -> None:
        """Handle the start of deliveries. Earlier events of the topic are not delivered."""

    def lost(self) -> None:
        """Handle an interruption: events may be lost until `joined` is called again."""

    def message(self, event: str, payload: dict[str, Any]) -> None:
        """Handle an event."""


class EventSource(Protocol):
    """A source of events: a Realtime websocket, or a database connection that uses LISTEN."""

    def listen(self, topic: str, listener: Listener) -> AbstractContextManager[None]:
        """Deliver the events of a topic to the listener until the block ends."""

    async def aclose(self) -> None:
        """Stop all deliveries and close the connection."""
