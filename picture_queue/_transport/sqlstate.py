"""What PostgreSQL says went wrong, as the exceptions of this library."""

from psycopg import Error, OperationalError
from psycopg.conninfo import conninfo_to_dict

from picture_queue._transport.base import FunctionMissing, name_server_code
from picture_queue.errors import AuthenticationFailed, ConnectionFailed
from picture_queue.settings import DatabaseSettings

_LOST = ("08", "57P01", "57P02", "57P03")


def name_database_error(error: Exception, settings: DatabaseSettings) -> Exception:
    """Returns the exception of this library for a failure of a direct call.

    Args:
        error: What psycopg raised.
        settings: The address, of which the host is named and never the password.
    """
    if isinstance(error, TimeoutError):
        return ConnectionFailed(
            f"{_host(settings)} gave no answer in {settings.timeout:g} s",
            hint="Check PICTURE_QUEUE_DATABASE_URL and that the database is running",
        )
    if not isinstance(error, Error):
        return error
    code, diagnosis = error.sqlstate, error.diag
    message = diagnosis.message_primary or str(error)
    if code is None or code.startswith(_LOST):
        refused = _refused(error, message)
        if refused is not None:
            return refused
        return ConnectionFailed(
            f"{_host(settings)} does not answer",
            detail=_first_line(str(error)),
            hint="Check PICTURE_QUEUE_DATABASE_URL and that the database is running",
        )
    if code == "42883":
        return FunctionMissing(message)
    if code.startswith("28"):  # authorization
        return _authentication(message)
    return name_server_code(code, message, diagnosis.message_detail, diagnosis.message_hint)


def _refused(error: Error, message: str) -> AuthenticationFailed | None:
    # While connecting libpq keeps the server's words, but not its code.
    words = ("authentication failed", "no pg_hba.conf entry", "does not exist", "no password")
    if isinstance(error, OperationalError) and any(word in message for word in words):
        return _authentication(_first_line(message))
    return None


def _authentication(message: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        "The database refused the user or the password",
        detail=message,
        hint="Check PICTURE_QUEUE_DATABASE_URL",
    )


def _host(settings: DatabaseSettings) -> str:
    found = conninfo_to_dict(settings.url)
    return f"The database at {found.get('host', 'localhost')}:{found.get('port', 5432)}"


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]
