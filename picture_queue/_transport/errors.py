"""Translation of errors of PostgreSQL, psycopg, PostgREST and Storage into our exceptions.

httpx and psycopg are imported in the functions that need them, so that only the transport in use
loads its library.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from picture_queue._retry_after import parse_retry_after
from picture_queue._transport.base import Deadline
from picture_queue.errors import (
    AuthenticationFailed,
    Busy,
    ConnectionFailed,
    InvalidArgument,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    PictureQueueError,
    ServerError,
    SettingsError,
    TooLarge,
    from_database,
)
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    import httpx
    from psycopg import Error

# Exception, message and hint for error codes of PostgreSQL (appendix A of its manual) and PostgREST
# (https://docs.postgrest.org/en/v12/references/errors.html).
_BY_SERVER_CODE: dict[str, tuple[type[PictureQueueError], str, str | None]] = {
    "42501": (
        NotAllowed,
        "This key lacks the permission for the call",
        "Use a service key, or sign in as the owner",
    ),
    "40001": (Busy, "The call conflicted with another call", None),
    "40P01": (Busy, "The call deadlocked with another call", None),
    "57014": (Busy, "The call exceeded the database's statement timeout", None),
    "53300": (Busy, "The database has no free connection", None),
    "55P03": (Busy, "Another call holds a lock for too long", None),
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
    "PGRST303": (AuthenticationFailed, "The token is no longer valid", "Sign in again"),
}
# SQLSTATE prefixes of a database that is not available: the connection was lost or refused, or the
# server is full, starting or stopping.
_UNAVAILABLE = ("08", "53", "57P")
# SQLSTATE prefixes after which the connection cannot be used any more.
_CONNECTION_LOST = ("08", "57P01", "57P02", "57P03")
# Parts of the messages of libpq and of Supabase's pooler for a refused login.
_LOGIN_REFUSED = (
    "authentication failed",
    "no pg_hba.conf entry",
    "no password",
    "Tenant or user not",
)
_DATABASE_HINT = "Check PICTURE_QUEUE_DATABASE_URL and that the database is running"
_SERVER_CODE = re.compile(r"PGRST\w+|[0-9A-Z]{5}")
_NO_SUCH_PATH = "PGRST125"  # the URL of the project has a path
# Storage answers most errors with HTTP 400; the actual status is in `statusCode` of the body.
_BY_STORAGE_STATUS: dict[str, type[PictureQueueError]] = {
    "401": AuthenticationFailed,
    "403": NotAllowed,
    "404": NotFound,
    "413": TooLarge,
    "415": InvalidArgument,
    "429": Busy,
}


class FunctionMissing(Exception):
    """The database has no such function: its SQL is older, newer, or not installed."""


def translate_server_code(
    code: str, message: str, detail: str | None, hint: str | None
) -> PictureQueueError:
    """Return the exception for an error that PostgreSQL or PostgREST reported.

    Args:
        code: The SQLSTATE, or a code of PostgREST.
        message: The message of the server.
        detail: The detail of the server.
        hint: The hint of the server.
    """
    error = from_database(code, message, detail, hint)
    if error is not None:
        return error
    # PostgreSQL raises 22023 if the role that the token names does not exist.
    known_code = "PGRST301" if code == "22023" and message.startswith('role "') else code
    if known_code in _BY_SERVER_CODE:
        class_, our_message, our_hint = _BY_SERVER_CODE[known_code]
        return class_(our_message, code=code, detail=message, hint=our_hint)
    if code.startswith(_UNAVAILABLE):
        return Busy("The database is not available now", code=code, detail=message)
    if code.startswith("22"):  # a value cannot be converted to the type of its parameter
        return InvalidArgument(message, code=code, detail=detail)
    return ServerError(message or "The project refused the call", code=code, detail=detail)


def translate_database_error(
    error: Exception, settings: DatabaseSettings, deadline: Deadline | None = None
) -> Exception:
    """Return the exception of this library for the failure of a direct call to the database.

    Args:
        error: The exception that the call raised.
        settings: The settings of the database; messages contain its host, never its password.
        deadline: The deadline of the call, for the message; None: the timeout of the settings.
    """
    from psycopg import Error

    if not _can_parse(settings.url):
        # The message of libpq is omitted, since it may quote the password.
        return SettingsError(
            "PICTURE_QUEUE_DATABASE_URL (or --db-url) is not a PostgreSQL URL",
            hint="Copy it from the project's settings: postgresql://user:password@host:port/name",
        )
    if isinstance(error, TimeoutError):
        timeout = settings.timeout if deadline is None else deadline.timeout
        return ConnectionFailed(
            f"{_server_name(settings)} gave no answer in {timeout:g} s",
            hint=_DATABASE_HINT,
        )
    if isinstance(error, OSError | UnicodeError):  # from the socket or the resolver
        return ConnectionFailed(
            f"{_server_name(settings)} does not answer", detail=str(error), hint=_DATABASE_HINT
        )
    if not isinstance(error, Error):
        return error
    code, diagnosis = error.sqlstate, error.diag
    message = diagnosis.message_primary or str(error)
    if code is None or code.startswith(_CONNECTION_LOST):
        return _connection_error(error, message, settings)
    if code == "42883":  # undefined_function
        return FunctionMissing(message)
    if code == "3D000":  # invalid_catalog_name
        return _no_database(message)
    if code.startswith("28"):  # invalid authorization
        return _login_refused(message)
    return translate_server_code(code, message, diagnosis.message_detail, diagnosis.message_hint)


def _connection_error(error: "Error", message: str, settings: DatabaseSettings) -> Exception:
    from psycopg import OperationalError

    # After a failed connect, libpq reports the message of the server without the SQLSTATE.
    if isinstance(error, OperationalError):
        if re.search('database ".*" does not exist', message):
            return _no_database(_first_line(message))
        if 'role "' in message or any(text in message for text in _LOGIN_REFUSED):
            return _login_refused(_first_line(message))
    return ConnectionFailed(
        f"{_server_name(settings)} does not answer",
        detail=_first_line(str(error)),
        hint=_DATABASE_HINT,
    )


def _login_refused(message: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        "The database refused the user or the password",
        detail=message,
        hint="Check PICTURE_QUEUE_DATABASE_URL",
    )


def _no_database(message: str) -> SettingsError:
    return SettingsError(
        "The server has no such database",
        detail=message,
        hint="Check the name at the end of PICTURE_QUEUE_DATABASE_URL; it is postgres on Supabase",
    )


def _can_parse(url: str) -> bool:
    """Return whether libpq can parse the URL or key=value string of a database."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        ports = str(conninfo_to_dict(url).get("port", ""))
    except (ProgrammingError, UnicodeError):
        return False
    # An unescaped / in a password ends the host of the URL. libpq then takes the beginning of the
    # password for the port.
    return not url.isspace() and all(port == "" or port.isdecimal() for port in ports.split(","))


def _server_name(settings: DatabaseSettings) -> str:
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(settings.url)
    return f"The database at {parts.get('host', 'localhost')}:{parts.get('port', 5432)}"


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def translate_http_error(error: Exception, url: str, deadline: Deadline | None = None) -> Exception:
    """Return the exception of this library for the failure of a call over HTTP.

    Args:
        error: The exception that supabase-py, httpx or one of their dependencies raised.
        url: The URL of the project, for the message.
        deadline: The deadline of the call, for the message.
    """
    import httpx

    if isinstance(error, PictureQueueError | FunctionMissing):
        return error
    if isinstance(error, httpx.TimeoutException) and deadline is not None:
        reason = f"no answer in {deadline.timeout:g} s"
    else:
        reason = str(error) or type(error).__name__
    # Any other exception counts as a lost connection too: h2, for example, may raise a KeyError.
    return ConnectionFailed(
        f"{url} does not answer",
        detail=reason,
        hint="Check SUPABASE_URL and that the project (or picture-queue local) is running",
    )


def translate_response(response: "httpx.Response", content: bytes, url: str) -> Exception:
    """Return the exception for an error response.

    Args:
        response: The response, for its status and headers.
        content: The body of the response.
        url: The URL of the project, for the message.
    """
    body = _json_object(content)
    error = _storage_error(body) or _server_error(body, url) or _status_error(response, body, url)
    if isinstance(error, Busy):
        error.retry_after = parse_retry_after(response.headers.get("retry-after"))
    return error


def _storage_error(body: dict[str, Any]) -> PictureQueueError | None:
    """Return the error that Storage reports; None if the body is not from Storage."""
    status = str(body.get("statusCode") or "")
    if not status:
        return None
    class_ = Busy if status[:1] == "5" else _BY_STORAGE_STATUS.get(status, ServerError)
    return class_(f"Storage refused: {body.get('message')}", code=str(body.get("error")))


def _server_error(body: dict[str, Any], url: str) -> Exception | None:
    """Return the error of PostgREST or the database; None if the body is not from them."""
    code, message = str(body.get("code") or ""), str(body.get("message") or "")
    if code in ("PGRST202", "42883"):  # 42883: a dropped function that PostgREST still caches
        return FunctionMissing(message)
    if _SERVER_CODE.fullmatch(code) and code != _NO_SUCH_PATH:
        return translate_server_code(code, message, body.get("details"), body.get("hint"))
    if "API key" in message:
        return _key_refused(url, message)
    return None


def _status_error(response: "httpx.Response", body: dict[str, Any], url: str) -> PictureQueueError:
    status = response.status_code
    code, detail = str(status), f"HTTP {status} {response.reason_phrase}".rstrip()
    # A body without any of these keys comes from another API at this URL, not from Supabase.
    if status in (401, 403) and (not body or body.keys() & {"message", "msg", "error"}):
        return _key_refused(url, str(body.get("message") or detail))
    if status == 413:
        return TooLarge(f"The call is larger than {url} accepts", code=code, detail=detail)
    if status == 429:
        return Busy(
            f"{url} limits the rate of calls",
            code=code,
            detail=detail,
            hint="Make fewer calls, or raise the limit of the project",
        )
    if status >= 500 or status == 408:
        return Busy(f"{url} is not available now", code=code, detail=detail)
    return ConnectionFailed(
        f"{url} does not answer like a Supabase project",
        detail=detail,
        hint="Check SUPABASE_URL: it is the project's base URL, without a path",
    )


def _key_refused(url: str, message: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"{url} refused the key", detail=message, hint="Check the key: picture-queue local status"
    )


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        body = from_json(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


@contextmanager
def require_usable_environment() -> Iterator[None]:
    """Translate the errors of httpx for invalid proxy and certificate variables.

    Raises:
        SettingsError: A proxy or certificate variable is invalid.
    """
    import httpx

    try:
        yield
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise SettingsError(
            "A proxy or certificate variable of the environment is invalid",
            detail=str(error),
            hint="Check ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
        ) from error


@contextmanager
def require_driver() -> Iterator[None]:
    """Raise an error that names the package to install if the PostgreSQL driver is missing.

    Raises:
        SettingsError: The driver is missing.
    """
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            "A database URL is set, but the PostgreSQL driver is not installed",
            detail=str(error),
            hint='pip install "picture-queue[postgres]"',
        ) from error
