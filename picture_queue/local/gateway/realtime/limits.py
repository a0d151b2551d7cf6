"""The rates and sizes that Realtime allows a project."""

from collections import Counter
from collections.abc import Hashable
from time import monotonic

from picture_queue.local.gateway.settings import RealtimeLimits


class SharedRate:
    """A limit a second that those who use it share: who floods it stops nobody else.

    Args:
        most: How much may happen in a second.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._taken: Counter[Hashable] = Counter()
        self._second = 0.0

    def take(self, user: Hashable, count: int = 1) -> bool:
        """Count some more of a user; False if that is too much, and then nothing is counted.

        Once the limit is used up, a user may still take an equal share of it.
        """
        now = monotonic()
        if now - self._second >= 1:
            self._second, self._total = now, 0
            self._taken.clear()
        users = len(self._taken) + (user not in self._taken)
        if self._total + count > self._most and self._taken[user] + count > self._most // users:
            return False
        self._total += count
        self._taken[user] += count
        return True


class Quota:
    """The limits and what is used up of them, for all sockets together.

    Args:
        limits: How much may be.
    """

    def __init__(self, limits: RealtimeLimits) -> None:
        self.limits = limits
        # The database has its own: clients can be as many as they like, and would share it to bits.
        self.events = SharedRate(limits.messages_per_second)  # by topic
        self.messages = SharedRate(limits.messages_per_second)  # by sender
        self.joins = SharedRate(limits.joins_per_second)  # by socket
        self.connections = 0

    def too_large(self, text: str) -> bool:
        """Return whether a message is above the limit, given the frame that carries it."""
        # Most are far below it, and then nothing has to be counted.
        most = self.limits.payload_bytes
        return len(text) * 4 > most and len(text.encode()) > most
