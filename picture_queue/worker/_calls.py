"""The worker's calls to its project, and whether they succeed."""

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from picture_queue._log import Log
from picture_queue._rpc import Rpc
from picture_queue._transport.base import is_transient
from picture_queue.errors import BY_CODE, Busy, NotAllowed, NotAuthenticated, PictureQueueError

if TYPE_CHECKING:
    from picture_queue._transport.backend import AsyncBackend

T = TypeVar("T")

_log = Log(__name__)

_FAULT_LOG_INTERVAL = 60.0  # seconds between two error messages about the same fault
_MAX_PAUSE = 60.0  # seconds: one wrong Retry-After must not stop all calls for hours


class WorkerCalls:
    """The calls of one worker, with a record of whether they succeed.

    The heartbeat thread calls over its own connection, and records the results here.

    Args:
        backend: The worker's project.
        worker: Name of the worker.
        emit: Called with the name and the values of each internal event of the worker, so that
            tests can wait for the event: ``idle`` (two claims in a row returned fewer jobs than
            requested), ``claimed`` (jobs), ``outcome`` (job, name of the outcome or None),
            ``reported`` (job, answer), ``heartbeat_answered``, ``maintained`` (answer),
            ``listening`` (number of queues whose wake-ups arrive).

    Attributes:
        quiet_until: Time of the monotonic clock until which the worker makes only urgent calls,
            because the API asked for a pause (``Retry-After``).
    """

    def __init__(self, backend: "AsyncBackend", worker: str, emit: Callable[..., None]) -> None:
        self.worker = worker
        self.emit = emit
        self.quiet_until = 0.0
        self._backend = backend
        # The functions whose last call failed, and the time of the first failure since a success.
        self._failing_since: dict[str, float] = {}
        self._logged_at: dict[str, float] = {}  # for each message of `log_fault`

    @property
    def is_up(self) -> bool:
        """True if the last call of each function was answered."""
        return not self._failing_since

    async def call(
        self, rpc: Rpc[T], timeout: float, *, urgent: bool = False, counts: bool = True
    ) -> T:
        """Make a call.

        Args:
            rpc: The call.
            timeout: Seconds to wait for the answer, retries included.
            urgent: Whether to make the call even if the API asked for a pause.
            counts: Whether the result of the call counts for `is_up`.

        Raises:
            PictureQueueError: The database refused the call, or did not answer, or the API asked
                for a pause that is not over.
        """
        pause = self.quiet_until - time.monotonic()
        if pause > 0 and not urgent:
            raise Busy(f"The API asked for {pause:.0f} more seconds without calls")
        try:
            result = await self._backend.call(rpc, timeout)
        except Exception as error:
            self.record_failure(error, rpc.function, counts=counts)
            raise
        if counts:
            self.record_success(rpc.function)
        return result

    def record_success(self, function: str) -> None:
        """Record that the project answered a call of a function."""
        if (since := self._failing_since.pop(function, None)) is not None:
            seconds = time.monotonic() - since
            self._logged_at.clear()
            _log.info("The worker's calls succeed again after %.1f s (%s)", seconds, function)

    def record_failure(self, error: Exception, function: str, *, counts: bool = True) -> None:
        """Record that a call of a function failed, and any pause that the API asked for."""
        pause = min(getattr(error, "retry_after", None) or 0.0, _MAX_PAUSE)
        self.quiet_until = max(self.quiet_until, time.monotonic() + pause)
        if not counts:
            return
        if is_refusal(error):
            self.record_success(function)  # a refusal is an answer: the project is up
            return
        reason = str(error) or type(error).__name__
        if isinstance(error, NotAuthenticated | NotAllowed):
            self.log_fault(f"The project refuses all calls of the worker: {reason}")
        elif function not in self._failing_since:
            _log.warning("The worker's calls fail and are repeated (%s): %s", function, reason)
        self._failing_since.setdefault(function, time.monotonic())

    def log_fault(self, message: str) -> None:
        """Log an error, but the same error at most once a minute."""
        now = time.monotonic()
        last = self._logged_at.get(message)
        if last is None or now - last >= _FAULT_LOG_INTERVAL:
            self._logged_at[message] = now
            _log.error(message)


def is_refusal(error: BaseException) -> bool:
    """Return whether the call itself is the cause of an error, so that it would fail again."""
    if is_transient(error) or isinstance(error, NotAuthenticated | NotAllowed):
        return False
    if isinstance(error, ValueError | TypeError | RecursionError):
        return True  # an argument cannot be written as JSON, or the database refused its value
    return isinstance(error, PictureQueueError) and error.code in BY_CODE


class RetryDelay:
    """Delays between attempts in seconds: exponential backoff with jitter.

    A worker notices the end of an outage at most ``maximum`` seconds late.
    """

    def __init__(self, first: float = 0.2, maximum: float = 2.0) -> None:
        self._first, self._next, self._maximum = first, first, maximum

    def next(self) -> float:
        """Return the delay before the next attempt, in seconds."""
        delay, self._next = self._next, min(self._next * 2, self._maximum)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load

    def reset(self) -> None:
        """Start over, after a success."""
        self._next = self._first
