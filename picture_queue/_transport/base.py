"""What every way to the database shares: which failures are worth repeating, and their names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    NotInstalled,
    PictureQueueError,
    ServerError,
    SettingsError,
    from_database,
)
from picture_queue.records import Version

UPGRADE = (
    "Apply the SQL that ships with this version: picture-queue install && supabase db push, "
    "or picture-queue migrate"
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
# Lost or refused connections, a full server, one on its way down or up.
_AWAY = ("08", "53", "57P")


class FunctionMissing(Exception):
    """The API knows no such function: too old, too new, or not installed."""


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
    if code.startswith(_AWAY):
        return Busy("The database is not available now", code=code, detail=message)
    if code == "22023" and message.startswith('role "'):  # of the token
        kind, text, advice = _BY_SERVER_CODE["PGRST301"]
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
