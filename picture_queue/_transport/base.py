"""The deadline, the retry policy and the errors that all transports share."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tenacity import (
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from picture_queue import _rpc
from picture_queue._rpc import Rpc
from picture_queue._transport.unreadable import read_json
from picture_queue.errors import (
    AuthenticationFailed,
    Busy,
    ClientTooOld,
    ConnectionFailed,
    DatabaseTooOld,
    InvalidArgument,
    NotAllowed,
    NotAuthenticated,
    NotInstalled,
    PictureQueueError,
    ServerError,
    SettingsError,
    UnreadableAnswer,
    from_database,
)
from picture_queue.records import Version

T = TypeVar("T")

UPGRADE = (
    "Apply the SQL that ships with this version: picture-queue install && supabase db push, "
    "or picture-queue migrate; an embedded stack applies it when it starts again"
)
# Codes of https://docs.postgrest.org/en/v12/references/errors.html and of PostgreSQL, appendix A.
_BY_SERVER_CODE: dict[str, tuple[type[PictureQueueError], str, str | None]] = {
    "42501": (NotAllowed, "This key may not do that", "Use a service key, or sign in as the owner"),
    "40001": (Busy, "Two calls were in each other's way", None),
    "40P01": (Busy, "Two calls were in each other's way", None),
    "57014": (Busy, "The database stopped the call at its time limit", None),
    "53300": (Busy, "The database has no free connection", None),
    "55P03": (Busy, "Another call holds the rows for too long", None),
    "PGRST000": (Busy, "The API has no connection to the database", None),
    "PGRST001": (Busy, "The API has no connection to the database", None),
    "PGRST002": (Busy, "The API is loading the schema", None),
    "PGRST003": (Busy, "The API has no free connection to the database", None),
    "PGRST301": (
        AuthenticationFailed,
        "The key or token is not valid for this project",
        "Copy the key from the project's API settings, or run: picture-queue local status",
    ),
    "PGRST302": (NotAuthenticated, "The call needs a key or a token", None),
    "PGRST303": (AuthenticationFailed, "The token is not valid any more", "Sign in again"),
}
# Lost or refused connections, a full server, one that starts or shuts down.
_UNAVAILABLE = ("08", "53", "57P")


class Deadline:
    """The moment by which a call must be answered, its retries included.

    Args:
        timeout: Seconds from now.
    """

    __slots__ = ("_at", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._at = time.monotonic() + timeout

    def remaining(self) -> float:
        """Return the seconds that are left, 0 when the deadline has passed."""
        return max(0.0, self._at - time.monotonic())


@dataclass(frozen=True, slots=True)
class StorageCall:
    """One call of Storage; it may be repeated.

    Args:
        method: The HTTP method.
        path: What follows the address of Storage.
        content: The body.
        headers: Headers beside those of the client.
    """

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class FunctionMissing(Exception):
    """The API knows no such function: too old, too new, or not installed."""


def parse_answer(
    rpc: Rpc[T], answer: bytes | None, decode: Callable[[bytes], Any] = read_json
) -> T:
    """Return the result of a call.

    Args:
        rpc: The call.
        answer: The value that its function returned; None: null.
        decode: Reads the value.

    Raises:
        UnreadableAnswer: It is no JSON, or not of the form that the call expects.
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


def translate_server_code(
    code: str, message: str, detail: str | None, hint: str | None
) -> PictureQueueError:
    """Return the exception for an error that PostgreSQL or PostgREST reported.

    Args:
        code: SQLSTATE, or PostgREST's own code.
        message: The server's message.
        detail: The server's detail.
        hint: The server's hint.
    """
    ours = from_database(code, message, detail, hint)
    if ours is not None:
        return ours
    if code in _BY_SERVER_CODE:
        kind, text, advice = _BY_SERVER_CODE[code]
        return kind(text, code=code, detail=message, hint=advice)
    if code.startswith(_UNAVAILABLE):
        return Busy("The database is not available now", code=code, detail=message)
    if code == "22023" and message.startswith('role "'):  # of the token
        kind, text, advice = _BY_SERVER_CODE["PGRST301"]
        return kind(text, code=code, detail=message, hint=advice)
    if code.startswith("22"):  # a value that does not convert to its parameter's type
        return InvalidArgument(message, code=code, detail=detail)
    return ServerError(message or "The project refused the call", code=code, detail=detail)


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may well succeed a moment later."""
    return isinstance(error, Busy | ConnectionFailed)


_backoff = wait_random_exponential(0.2, 2.0)  # seconds


def _wait(state: RetryCallState) -> float:
    """Return the seconds before the next attempt; no less than the server asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(getattr(error, "retry_after", None) or 0.0, _backoff(state))


#: The one policy by which calls are repeated, for tenacity's Retrying and AsyncRetrying. Every Rpc
#: may be repeated.
RETRY_POLICY: dict[str, Any] = {
    "retry": retry_if_exception(is_transient),
    "stop": stop_after_attempt(4),
    "wait": _wait,
    "reraise": True,
}


def retry_policy(deadline: Deadline) -> dict[str, Any]:
    """Return the policy for a call that must be answered by a deadline."""
    before_deadline = stop_before_delay(deadline.remaining())
    return {**RETRY_POLICY, "stop": RETRY_POLICY["stop"] | before_deadline}


@contextmanager
def needs_driver() -> Iterator[None]:
    """Name the package to install where the driver for direct connections is missing.

    Raises:
        SettingsError: The driver is missing.
    """
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            "A database address is set, and the driver for it is not installed",
            detail=str(error),
            hint='pip install "picture-queue[postgres]"',
        ) from error


def check_version(found: Version | None) -> None:
    """Compare a database's version with this client's.

    Args:
        found: The database's answer, or None when it has no picture-queue functions.

    Raises:
        VersionMismatch: In one of its three kinds, saying what to do.
    """
    if found is None:
        raise NotInstalled("This project has no picture-queue functions", hint=UPGRADE)
    if found.contract < _rpc.CONTRACT:
        raise DatabaseTooOld(
            f"The project's SQL is version {found.version}, older than this client needs",
            hint=UPGRADE,
        )
    if found.oldest_client_contract > _rpc.CONTRACT:
        raise ClientTooOld(
            f"The project's SQL is version {found.version} and serves newer clients only",
            hint="Upgrade this package: pip install --upgrade picture-queue",
        )
