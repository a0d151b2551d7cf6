"""Application of the migrations to a database, without the Supabase CLI.

Each migration is one transaction: its statements and its row in ``picture_queue.migration``. The
transaction holds an advisory lock, so that only one process applies migrations at a time, and reads
the pending migrations under this lock. A session-level lock would not work behind a pooler.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from picture_queue._resources import Migration, find_place, migrations
from picture_queue.errors import MigrationFailed
from picture_queue.installation import state
from picture_queue.installation.state import MigrationTool, connected
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection

# The key of the lock is the first eight bytes of the SHA-256 of "picture-queue migrate".
LOCK = "select pg_catalog.pg_advisory_xact_lock(4238266008931965025)"
# Supabase sets statement timeouts for roles, which a migration may exceed. The lock timeout is
# needed since a statement that waits for a table lock blocks all later statements on the table.
TIMEOUTS = "set local statement_timeout = 0; set local lock_timeout = '30s'"
_RECORD = "insert into picture_queue.migration (name, digest) values (%s, %s)"


def migrate(settings: DatabaseSettings, applied: Callable[[str], None]) -> list[str]:
    """Apply the pending migrations, each in one transaction.

    Args:
        settings: The URL of the database; its user owns, or will own, the schema ``picture_queue``.
        applied: Function that is called with the name of each migration after its commit.

    Returns:
        The names of the applied migrations.

    Raises:
        InstallationRefused: Another tool applies the migrations, or an applied migration is unknown
            to this package.
        MigrationFailed: A migration failed and was rolled back; earlier migrations remain applied.
        PictureQueueError: The database does not answer, or its user lacks the permission.
    """
    names = []
    with connected(settings) as connection:
        while (name := _apply_next(connection)) is not None:
            names.append(name)
            applied(name)
    return names


def pending(settings: DatabaseSettings) -> list[str]:
    """Return the names of the pending migrations.

    Raises:
        InstallationRefused: For the same reasons as in `migrate`.
        PictureQueueError: The database does not answer.
    """
    with connected(settings) as connection:
        return [migration.name for migration in _pending(connection)]


def expect_tool(settings: DatabaseSettings, tool: MigrationTool) -> None:
    """Check that a tool may apply migrations to the database.

    Raises:
        InstallationRefused: Another tool applies the migrations, or another queue must be adopted
            first.
        PictureQueueError: The database does not answer.
    """
    with connected(settings) as connection:
        state.expect_tool(state.read(connection, migrations()), tool)


def _pending(connection: "Connection[Any]") -> list[Migration]:
    shipped = migrations()
    installed = state.read(connection, shipped)
    state.expect_tool(installed, MigrationTool.MIGRATE)
    installed.expect_known(shipped)
    return [migration for migration in shipped if migration.name not in installed.applied]


def _apply_next(connection: "Connection[Any]") -> str | None:
    with connection.transaction():
        connection.execute(LOCK)
        pending = _pending(connection)
        if not pending:
            return None
        apply(connection, pending[0])
        return pending[0].name


def apply(connection: "Connection[Any]", migration: Migration) -> None:
    """Execute a migration in the open transaction and record it.

    Raises:
        MigrationFailed: A statement failed.
    """
    from psycopg import Error

    try:
        connection.execute(TIMEOUTS)
        # Without parameters, psycopg sends all statements at once and unchanged.
        connection.execute(migration.sql.encode())
        connection.execute(_RECORD, (migration.name, migration.digest))
    except Error as error:
        diagnosis = error.diag
        raise MigrationFailed(
            f"{migration.file_name} cannot be applied: {diagnosis.message_primary or error}",
            detail=find_place(migration.sql, diagnosis.statement_position, diagnosis.context),
            hint=diagnosis.message_hint,
        ) from error
