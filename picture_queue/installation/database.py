"""Applies the migrations to a database, without the Supabase CLI.

Each file is one transaction: its statements and its row in ``picture_queue.migration``. An advisory
lock of the transaction, which works behind a pooler where a session lock does not, admits one run
at a time; the next one reads again which files are pending.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from picture_queue._resources import Migration, migrations, place_of
from picture_queue.errors import MigrationFailed
from picture_queue.installation import state
from picture_queue.installation.state import MigrationTool, connected
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection, Error

# A number of our own: the first eight bytes of the SHA-256 of "picture-queue migrate".
LOCK = "select pg_catalog.pg_advisory_xact_lock(4238266008931965025)"
# Roles of the platform have timeouts. A statement that waits for a table lock blocks others.
LIMITS = "set local statement_timeout = 0; set local lock_timeout = '30s'"
_RECORD = "insert into picture_queue.migration (name, digest) values (%s, %s)"


def migrate(settings: DatabaseSettings, applied: Callable[[str], None]) -> list[str]:
    """Apply the pending migrations, each in one transaction.

    Args:
        settings: The database; its user owns, or will own, the schema ``picture_queue``.
        applied: Called with the name of each migration after its commit.

    Returns:
        These names.

    Raises:
        InstallationRefused: Another tool applies the migrations, or the applied ones differ.
        MigrationFailed: A file was not applied; those before it stay.
        PictureQueueError: The database does not answer, or its user lacks the permission.
    """
    done = []
    with connected(settings) as connection:
        while (name := _apply_next(connection)) is not None:
            done.append(name)
            applied(name)
    return done


def pending(settings: DatabaseSettings) -> list[str]:
    """Return the names of the pending migrations.

    Raises:
        InstallationRefused: As `migrate`.
        PictureQueueError: The database does not answer.
    """
    with connected(settings) as connection:
        return [file.name for file in _pending(connection)]


def expect_tool(settings: DatabaseSettings, tool: MigrationTool) -> None:
    """Check that a tool may apply migrations to the database.

    Raises:
        InstallationRefused: Another tool applies them, or another queue must be adopted first.
        PictureQueueError: The database does not answer.
    """
    with connected(settings) as connection:
        state.expect_tool(state.read(connection, migrations()), tool)


def _pending(connection: "Connection[Any]") -> list[Migration]:
    shipped = migrations()
    found = state.read(connection, shipped)
    state.expect_tool(found, MigrationTool.MIGRATE)
    found.expect_known(shipped)
    return [file for file in shipped if file.name not in found.applied]


def _apply_next(connection: "Connection[Any]") -> str | None:
    with connection.transaction():
        connection.execute(LOCK)
        left = _pending(connection)
        if not left:
            return None
        apply(connection, left[0])
        return left[0].name


def apply(connection: "Connection[Any]", file: Migration) -> None:
    """Run a migration in the open transaction and record it.

    Raises:
        MigrationFailed: A statement failed.
    """
    from psycopg import Error

    try:
        connection.execute(LIMITS)
        # Without parameters all statements are sent at once, unchanged.
        connection.execute(file.sql.encode())
        connection.execute(_RECORD, (file.name, file.digest))
    except Error as error:
        raise _failed(file, error) from error


def _failed(file: Migration, error: "Error") -> MigrationFailed:
    said = error.diag
    return MigrationFailed(
        f"{file.file_name} cannot be applied: {said.message_primary or error}",
        detail=place_of(file.sql, said.statement_position, said.context),
        hint=said.message_hint,
    )
