"""Errors of PostgreSQL and psycopg as the exceptions of this library."""

import re

from psycopg import Error, OperationalError, ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from picture_queue._transport.base import Deadline, FunctionMissing, translate_server_code
from picture_queue.errors import AuthenticationFailed, ConnectionFailed, SettingsError
from picture_queue.settings import DatabaseSettings

_LOST = ("08", "57P01", "57P02", "57P03")
_REFUSED = ("authentication failed", "no pg_hba.conf entry", "no password", "Tenant or user not")
_HINT = "Check PICTURE_QUEUE_DATABASE_URL and that the database is running"


def translate_error(
    error: Exception, settings: DatabaseSettings, deadline: Deadline | None = None
) -> Exception:
    """Return the exception of this library for a failure of a direct call.

    Args:
        error: What psycopg raised.
        settings: The address, of which the host is named and never the password.
        deadline: The bound of the call.
    """
    if not _is_readable(settings.url):
        # What is wrong with it is not said: it would quote a password.
        return SettingsError(
            "PICTURE_QUEUE_DATABASE_URL (or --db-url) cannot be read as a database address",
            hint="Copy it from the project's settings: postgresql://user:password@host:port/name",
        )
    if isinstance(error, TimeoutError):
        timeout = settings.timeout if deadline is None else deadline.timeout
        return ConnectionFailed(
            f"{_server(settings)} gave no answer in {timeout:g} s",
            hint=_HINT,
        )
    if isinstance(error, OSError | UnicodeError):  # of the socket, or of looking up the host
        return ConnectionFailed(
            f"{_server(settings)} does not answer", detail=str(error), hint=_HINT
        )
    if not isinstance(error, Error):
        return error
    code, diagnosis = error.sqlstate, error.diag
    message = diagnosis.message_primary or str(error)
    if code is None or code.startswith(_LOST):
        return _connection_error(error, message, settings)
    if code == "42883":
        return FunctionMissing(message)
    if code == "3D000":
        return _no_database(message)
    if code.startswith("28"):  # authorization
        return _authentication_failed(message)
    return translate_server_code(code, message, diagnosis.message_detail, diagnosis.message_hint)


def _connection_error(error: Error, message: str, settings: DatabaseSettings) -> Exception:
    # While connecting libpq keeps the server's message, but not its code.
    if isinstance(error, OperationalError):
        if re.search('database ".*" does not exist', message):
            return _no_database(_first_line(message))
        if 'role "' in message or any(words in message for words in _REFUSED):
            return _authentication_failed(_first_line(message))
    return ConnectionFailed(
        f"{_server(settings)} does not answer", detail=_first_line(str(error)), hint=_HINT
    )


def _authentication_failed(message: str) -> AuthenticationFailed:
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


def _is_readable(url: str) -> bool:
    """Return whether libpq can read a database's address."""
    try:
        conninfo_to_dict(url)
    except (ProgrammingError, UnicodeError):
        return False
    return not url.isspace()


def _server(settings: DatabaseSettings) -> str:
    found = conninfo_to_dict(settings.url)
    return f"The database at {found.get('host', 'localhost')}:{found.get('port', 5432)}"


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]
