"""What every way to the database shares: which failures are worth repeating, and their names."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError
from tenacity import retry_if_exception, stop_after_attempt, wait_random_exponential

from picture_queue import _rpc
from picture_queue.errors import (
    AuthenticationFailed,
    Busy,
    ClientTooOld,
    ConnectionFailed,
    DatabaseTooOld,
    InvalidArgument,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotInstalled,
    PictureQueueError,
    ServerError,
    SettingsError,
    TooLarge,
    from_database,
)
from picture_queue.records import Version

_SERVER_CODE = re.compile(r"PGRST\w+|[0-9A-Z]{5}")
UPGRADE = "Apply the SQL that ships with this version: supabase db push"
# Codes of https://docs.postgrest.org/en/v12/references/errors.html and of PostgreSQL, appendix A.
_BY_SERVER_CODE: dict[str, tuple[type[PictureQueueError], str, str | None]] = {
    "42501": (NotAllowed, "This key may not do that", "Use a service key, or sign in as the owner"),
    "57014": (Busy, "The database stopped the call at its time limit", None),
    "53300": (Busy, "The database has no free connection", None),
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


# Storage answers HTTP 400 to nearly everything; the meaning is in statusCode of the body.
_BY_STORAGE_STATUS: dict[str, type[PictureQueueError]] = {
    "403": NotAllowed,
    "404": NotFound,
    "413": TooLarge,
    "429": Busy,
}


class FunctionMissing(Exception):
    """The API knows no such function: too old, too new, or not installed."""


def name_error(error: Exception, url: str) -> Exception:
    """Returns the exception of this library for a failure of a call.

    Args:
        error: What supabase-py or httpx raised.
        url: The project's address, for the message.
    """
    if isinstance(error, APIError):
        return _name_api_error(error, url)
    if isinstance(error, httpx.HTTPError):
        reason = str(error) or type(error).__name__
        return ConnectionFailed(
            f"{url} does not answer",
            detail=reason,
            hint="Check SUPABASE_URL and that the project (or picture-queue local) is running",
        )
    if isinstance(error, StorageApiError):
        status = str(error.status)
        kind = Busy if status[:1] == "5" else _BY_STORAGE_STATUS.get(status, ServerError)
        return kind(f"Storage refused: {error.message}", code=error.code)
    return error


def _name_api_error(error: APIError, url: str) -> Exception:
    code, message = str(error.code or ""), error.message or ""
    if code == "PGRST202":
        return FunctionMissing(message)
    if _SERVER_CODE.fullmatch(code):
        return name_server_code(code, message, error.details, error.hint)
    if code in ("401", "403") or "API key" in message:
        return AuthenticationFailed(
            f"{url} refused the key",
            detail=message,
            hint="Check the key: picture-queue local status",
        )
    if code in ("503", "502", "504", "520"):
        return Busy(f"{url} is not available now", code=code, detail=message)
    return ConnectionFailed(
        f"{url} does not answer like a Supabase project",
        detail=f"HTTP {code}" if code else message,
        hint="Check SUPABASE_URL: it is the project's base address, without a path",
    )


def name_server_code(
    code: str, message: str, detail: str | None, hint: str | None
) -> PictureQueueError:
    """Returns the exception for what PostgreSQL or PostgREST answered.

    Args:
        code: SQLSTATE, or PostgREST's own code.
        message: What it said.
        detail: More of it.
        hint: What it advised.
    """
    ours = from_database(code, message, detail, hint)
    if ours is not None:
        return ours
    if code in _BY_SERVER_CODE:
        kind, text, advice = _BY_SERVER_CODE[code]
        return kind(text, code=code, detail=message, hint=advice)
    if code.startswith("22"):  # a value that does not convert to its parameter's type
        return InvalidArgument(message, code=code, detail=detail)
    return ServerError(message or "The project refused the call", code=code, detail=detail)


def worth_repeating(error: BaseException) -> bool:
    """Whether the same call may well succeed a moment later."""
    return isinstance(error, Busy | ConnectionFailed)


#: How a call is made again, for tenacity's Retrying and AsyncRetrying. Every Rpc can be.
REPEATING: dict[str, Any] = {
    "retry": retry_if_exception(worth_repeating),
    "stop": stop_after_attempt(4),
    "wait": wait_random_exponential(0.2, 2.0),  # seconds
    "reraise": True,
}


@contextmanager
def needs_driver() -> Iterator[None]:
    """Says what to install where the driver for direct connections is missing.

    Raises:
        SettingsError: It is.
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
    """Compares a database's version with this client's.

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
