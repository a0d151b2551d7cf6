"""The worker's calls to the database: each with a bound, an outage logged once."""

import asyncio
import logging
import random
import time
from typing import Protocol, TypeVar

from picture_queue._rpc import Rpc
from picture_queue._transport.base import is_transient
from picture_queue.errors import BY_CODE, PictureQueueError

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Transport(Protocol):
    """What makes a call."""

    async def call(self, rpc: Rpc[T]) -> T:
        """Makes the call and returns its parsed result."""
        ...


class Link:
    """The calls of one worker.

    Args:
        transport: What makes them.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._down_since: float | None = None

    async def call(self, rpc: Rpc[T], timeout: float) -> T:
        """Makes a call.

        Args:
            rpc: The call; it may be made again after a lost answer.
            timeout: Longest wait for the answer, repetitions included, seconds.

        Raises:
            PictureQueueError: What the database answered, or that it did not.
            TimeoutError: No answer came in time.
        """
        try:
            async with asyncio.timeout(timeout):
                result = await self._transport.call(rpc)
        except Exception as error:
            if refused(error):
                self._is_up()
            else:
                self._is_down(error)
            raise
        self._is_up()
        return result

    def _is_down(self, error: Exception) -> None:
        if self._down_since is None:
            self._down_since = time.monotonic()
            reason = str(error) or type(error).__name__
            _log.warning("The worker gets no answer and tries on: %s", reason)

    def _is_up(self) -> None:
        if self._down_since is not None:
            seconds = time.monotonic() - self._down_since
            self._down_since = None
            _log.info("The worker gets answers again after %.1f s", seconds)


def refused(error: BaseException) -> bool:
    """Whether the call itself is at fault: repeating it brings the same answer."""
    if isinstance(error, ValueError | TypeError | RecursionError):
        return True  # it could not be written as JSON, or the database could not read it
    named = isinstance(error, PictureQueueError) and error.code in BY_CODE
    return named and not is_transient(error)


class Pauses:
    """Growing pauses between tries, with jitter.

    Args:
        first: The first pause, seconds.
        longest: The longest, seconds.
    """

    def __init__(self, first: float = 0.2, longest: float = 10.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """Returns the pause before the next try."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load

    def reset(self) -> None:
        """Starts over, after a try that went well."""
        self._next = self._first
