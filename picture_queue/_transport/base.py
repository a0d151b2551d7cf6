"""The interface of transports, the deadline of a call, and the retry policy."""

import time
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tenacity import (
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from picture_queue._rpc import Rpc
from picture_queue._rpc.project import CONTRACT
from picture_queue._transport.unreadable import read_json
from picture_queue.errors import (
    Busy,
    ClientTooOld,
    ConnectionFailed,
    DatabaseTooOld,
    NotInstalled,
    UnreadableAnswer,
)
from picture_queue.records import Version
from picture_queue.settings import DatabaseSettings, ProjectSettings

T = TypeVar("T")

_MAX_TIMEOUT = 1e6  # seconds: locks and sockets refuse longer waits

UPGRADE_HINT = (
    "Apply the SQL that ships with this version: picture-queue install && supabase db push, "
    "or picture-queue migrate; for an embedded stack, restart it"
)


class Deadline:
    """The time by which a call must be answered, including its retries.

    Args:
        timeout: Seconds from now.
    """

    __slots__ = ("_at", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._at = time.monotonic() + min(timeout, _MAX_TIMEOUT)

    def remaining(self) -> float:
        """Return the seconds until the deadline; 0 if it has passed."""
        return max(0.0, self._at - time.monotonic())


class AsyncTransport(Protocol):
    """A way to call the SQL functions of a project.

    A transport makes one attempt of each call; `AsyncBackend` makes the retries.
    """

    @property
    def settings(self) -> ProjectSettings | DatabaseSettings:
        """The URL and the timeouts of the project."""
        ...

    async def call(self, rpc: Rpc[T], deadline: Deadline) -> T:
        """Make a call and return its parsed result.

        Args:
            rpc: The call.
            deadline: The time by which to connect and receive the answer.

        Raises:
            PictureQueueError: The project refused the call, or did not answer.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Transport(Protocol):
    """The sync form of `AsyncTransport`."""

    @property
    def settings(self) -> ProjectSettings | DatabaseSettings:
        """The URL and the timeouts of the project."""
        ...

    def call(self, rpc: Rpc[T], deadline: Deadline) -> T:
        """Make a call and return its parsed result."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True)
class StorageCall:
    """An idempotent HTTP request to Supabase Storage.

    Args:
        method: The HTTP method.
        path: The path below the URL of Storage, without a leading slash.
        content: The request body. Each retry reads an iterable from its start. An iterable
            needs the header ``Content-Length``.
        headers: Headers in addition to the headers of the client.
    """

    method: str
    path: str
    content: bytes | AsyncIterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def parse_answer(
    rpc: Rpc[T], answer: bytes | None, decode: Callable[[bytes], Any] = read_json
) -> T:
    """Return the result of a call.

    Args:
        rpc: The call.
        answer: The value that the function returned, as bytes; None: the function returned null.
        decode: Function that reads the bytes of the answer.

    Raises:
        UnreadableAnswer: The value is not JSON, or not in the format that the call expects.
    """
    try:
        return rpc.parse(None if answer is None else decode(answer))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        unreadable = UnreadableAnswer(
            f"The answer of {rpc.function} cannot be read",
            detail=f"{type(error).__name__}: {str(error)[:300]}",
        )
        unreadable.answer = answer or b""
        raise unreadable from error


def is_transient(error: BaseException) -> bool:
    """Return whether the same call is likely to succeed a moment later."""
    return isinstance(error, Busy | ConnectionFailed)


_backoff = wait_random_exponential(0.2, 2.0)  # seconds


def _wait_seconds(state: RetryCallState) -> float:
    """Return the seconds before the next attempt, at least as many as the server asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(getattr(error, "retry_after", None) or 0.0, _backoff(state))


#: The retry policy of all calls, for tenacity's Retrying and AsyncRetrying. Every call is
#: idempotent, so it may be retried.
RETRY_POLICY: dict[str, Any] = {
    "retry": retry_if_exception(is_transient),
    "stop": stop_after_attempt(4),
    "wait": _wait_seconds,
    "reraise": True,
}


def retry_policy(deadline: Deadline) -> dict[str, Any]:
    """Return the policy for a call that must be answered by a deadline."""
    before_deadline = stop_before_delay(deadline.remaining())
    return {**RETRY_POLICY, "stop": RETRY_POLICY["stop"] | before_deadline}


def check_version(version: Version | None) -> None:
    """Check that a database and this client have compatible versions.

    Args:
        version: The version of the database; None if it has no picture-queue functions.

    Raises:
        NotInstalled: The database has no picture-queue functions.
        DatabaseTooOld: This client needs newer SQL.
        ClientTooOld: The database needs a newer client.
    """
    if version is None:
        raise NotInstalled("This project has no picture-queue functions", hint=UPGRADE_HINT)
    if version.contract < CONTRACT:
        raise DatabaseTooOld(
            f"The project's SQL has version {version.version}, and this client needs a later one",
            hint=UPGRADE_HINT,
        )
    if version.oldest_client_contract > CONTRACT:
        raise ClientTooOld(
            f"The project's SQL has version {version.version}, which needs a later client",
            hint="Upgrade this package: pip install --upgrade picture-queue",
        )
