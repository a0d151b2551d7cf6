"""Who hears, and what tells them: a socket of Realtime, or a connection that listens."""

from contextlib import AbstractContextManager
from typing import Any, Protocol


class Listener(Protocol):
    """Who hears of a topic. Called in the event loop; must not block."""

    def joined(self) -> None:
        """The topic is joined; what happened before is not told."""

    def lost(self) -> None:
        """The topic is not heard any more; `joined` follows when it is back."""

    def message(self, event: str, payload: dict[str, Any]) -> None:
        """An event arrived."""


class Ears(Protocol):
    """What tells listeners of topics."""

    def listen(self, topic: str, listener: Listener) -> AbstractContextManager[None]:
        """Tells the listener of the topic's events until the block ends."""

    async def aclose(self) -> None:
        """Tells nothing any more."""
