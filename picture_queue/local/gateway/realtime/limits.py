"""How much one project may ask of Realtime in a second, and at all."""

from time import monotonic

from picture_queue.local.gateway.settings import RealtimeLimits


class Rate:
    """Counts what happens in one second.

    Args:
        most: How much may happen.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._second = 0.0

    def take(self, count: int = 1) -> bool:
        """Counts some more; False if that is too much, and then nothing is counted."""
        now = monotonic()
        if now - self._second >= 1:
            self._second, self._taken = now, 0
        if self._taken + count > self._most:
            return False
        self._taken += count
        return True


class Quota:
    """The limits and what is used up of them, for all sockets together.

    Args:
        limits: How much may be.
    """

    def __init__(self, limits: RealtimeLimits) -> None:
        self.limits = limits
        self.messages = Rate(limits.messages_per_second)
        self.joins = Rate(limits.joins_per_second)
        self.connections = 0

    def too_large(self, text: str) -> bool:
        """Whether a message is above the limit, given as the frame that carries it."""
        # Most are far below it, and then nothing has to be counted.
        most = self.limits.payload_bytes
        return len(text) * 4 > most and len(text.encode()) > most
