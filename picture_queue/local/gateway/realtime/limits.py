"""The limits of rates and sizes in Realtime."""

from collections import Counter
from collections.abc import Hashable
from time import monotonic

from picture_queue.local.gateway.settings import RealtimeLimits


class FairRateLimit:
    """A rate limit with fair sharing: a key that exceeds it does not block the others.

    Args:
        maximum: The maximum number per second.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._total = 0
        self._taken: Counter[Hashable] = Counter()
        self._period_start = 0.0  # of the current second

    def take(self, key: Hashable, count: int = 1) -> bool:
        """Count events of a key and return True, or return False if they exceed the limit.

        When all keys together have reached the limit, each key may still use an equal share of the
        limit.
        """
        now = monotonic()
        if now - self._period_start >= 1:
            self._period_start, self._total = now, 0
            self._taken.clear()
        share = self._maximum // (len(self._taken) + (key not in self._taken))
        if self._total + count > self._maximum and self._taken[key] + count > share:
            return False
        self._total += count
        self._taken[key] += count
        return True


class Quota:
    """The limits and their current use, for all sockets together.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: RealtimeLimits) -> None:
        self.limits = limits
        # Messages of the database have a separate limit. Otherwise many clients together could use
        # up the limit, and messages of the database would be dropped.
        self.events = FairRateLimit(limits.messages_per_second)  # by topic
        self.messages = FairRateLimit(limits.messages_per_second)  # by sender
        self.joins = FairRateLimit(limits.joins_per_second)  # by socket
        self.connections = 0

    def is_too_large(self, text: str) -> bool:
        """Return whether the frame of a message is above the limit."""
        # A character has at most 4 bytes, so short frames need not be encoded.
        limit = self.limits.payload_bytes
        return len(text) * 4 > limit and len(text.encode()) > limit
