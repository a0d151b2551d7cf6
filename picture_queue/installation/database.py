"""Applies the migrations straight to a database, where no Supabase CLI does.

Each file is one transaction: its statements and its row in ``picture_queue.migration``. A lock of
the transaction, which a pooler passes on where it would lose one of the session, lets one run at a
time do that; the next looks again at what is left.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from picture_queue._resources import Migration, migrations, place_of
from picture_queue.errors import MigrationFailed
from picture_queue.installation import state
from picture_queue.installation.state import Keeper, connected
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection, Error

# A number of our own: the first eight bytes of the SHA-256 of "picture-queue migrate".
LOCK = "select pg_catalog.pg_advisory_xact_lock(4238266008931965025)"
# Roles of the platform have time limits. What waits for a table makes others wait behind it.
LIMITS = "set local statement_timeout = 0; set local lock_timeout = '30s'"
_RECORD = "insert into picture_queue.migration (name, digest) values (%s, %s)"


def migrate(settings: DatabaseSettings, applied: Callable[[str], None]) -> list[str]:
    """Applies the migrations the database does not have, each in one transaction.

    Args:
        settings: The database; its user owns, or comes to own, schema ``picture_queue``.
        applied: Called with the name of each as soon as it is applied.

    Returns:
        Those names.

    Raises:
        InstallationRefused: Another way keeps the database, or what is in it is not what ships.
        MigrationFailed: Nothing of that file was applied; those before it stay.
        PictureQueueError: The database does not answer, or its user may not do that.
    """
    done = []
    with connected(settings) as connection:
        while (name := _apply_next(connection)) is not None:
            done.append(name)
            applied(name)
    return done


def pending(settings: DatabaseSettings) -> list[str]:
    """Returns the names `migrate` would apply; changes nothing.

    Raises:
        InstallationRefused: As `migrate`.
        PictureQueueError: The database does not answer.
    """
    with connected(settings) as connection:
        return [file.name for file in _pending(connection)]


def expect_keeper(settings: DatabaseSettings, keeper: Keeper) -> None:
    """Checks that a way of applying migrations may go on with the database.

    Raises:
        InstallationRefused: Another way keeps it, or what is there has to be moved first.
        PictureQueueError: The database does not answer.
    """
    with connected(settings) as connection:
        state.expect_keeper(state.read(connection, migrations()), keeper)


def _pending(connection: "Connection[Any]") -> list[Migration]:
    shipped = migrations()
    found = state.read(connection, shipped)
    state.expect_keeper(found, Keeper.MIGRATE)
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
    """Runs a migration in the open transaction and writes down that it was.

    Raises:
        MigrationFailed: A statement failed.
    """
    from psycopg import Error

    try:
        connection.execute(LIMITS)
        # Without parameters it goes out as it is, all statements at once.
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
