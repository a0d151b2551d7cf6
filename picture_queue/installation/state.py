"""What a database holds of picture-queue, and who keeps it: read in one statement."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from picture_queue._resources import Migration
from picture_queue._transport.base import needs_driver
from picture_queue.errors import InstallationRefused, SettingsError
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection

# Names the catalogue by text: none of these tables has to be there.
_READ = """
select jsonb_build_object(
  'schema', to_regnamespace('picture_queue') is not null,
  'jobs', to_regclass('public.job_queue') is not null,
  'own_list', to_regclass('picture_queue.migration') is not null,
  'cli_list', to_regclass('supabase_migrations.schema_migrations') is not null)
"""
_OWN = "select name, digest from picture_queue.migration"
_CLI = "select version, name from supabase_migrations.schema_migrations"


class Keeper(StrEnum):
    """Who applies the migrations of a database."""

    NOBODY = "nobody"  # picture-queue is not in it
    MIGRATE = "picture-queue migrate"
    CLI = "supabase db push"
    UNKNOWN = "unknown"  # it is in it, and in nobody's list
    OLD_SYSTEM = "old system"  # another job_queue is in its place


@dataclass(frozen=True)
class State:
    """What is in a database.

    Args:
        keeper: Who applies its migrations.
        applied: The names of ours that are applied, with their digests where those are known.
    """

    keeper: Keeper
    applied: dict[str, str | None]

    def expect_known(self, shipped: list[Migration]) -> None:
        """Checks that the database holds the first so many of what ships, and as it ships.

        Raises:
            InstallationRefused: It holds more, or something else.
        """
        known = {file.name: file for file in shipped}
        for name, digest in self.applied.items():
            if name not in known:
                raise InstallationRefused(
                    f"The database has {name}, which this package does not know",
                    hint="Upgrade this package: pip install --upgrade picture-queue",
                )
            if digest not in (None, known[name].digest):
                raise _unreleased(f"{name} was applied as it stood before it was released")


def read(connection: "Connection[Any]", shipped: list[Migration]) -> State:
    """Reads the state of a database.

    Args:
        connection: To it.
        shipped: What the package ships.

    Raises:
        psycopg.Error: It cannot be read.
    """
    there = _value(connection, _READ)
    own: dict[str, str | None] = {}
    if there["own_list"]:
        own = dict(connection.execute(_OWN).fetchall())
    if own:
        return State(Keeper.MIGRATE, own)
    pushed = set()
    if there["cli_list"]:
        for version, name in connection.execute(_CLI):
            # Stamped anew by `install`, or applied as the file ships.
            pushed |= {name, f"{version}_{name}"}
    ours: dict[str, str | None] = {file.name: None for file in shipped if file.name in pushed}
    if ours and there["schema"]:
        return State(Keeper.CLI, ours)
    if there["schema"]:
        return State(Keeper.UNKNOWN, {})
    return State(Keeper.OLD_SYSTEM if there["jobs"] else Keeper.NOBODY, {})


def expect_keeper(state: State, wanted: Keeper) -> None:
    """Checks that a way of applying migrations may go on with a database.

    Args:
        state: The database's.
        wanted: The way.

    Raises:
        InstallationRefused: Another way keeps it, or what is there has to be moved first.
    """
    if state.keeper in (Keeper.NOBODY, wanted):
        return
    if state.keeper is Keeper.OLD_SYSTEM:
        raise InstallationRefused(
            "The database runs a job queue of its own: public.job_queue is there",
            hint="See what would become of it: picture-queue adopt --preview",
        )
    if state.keeper is Keeper.UNKNOWN:
        raise _unreleased("The database has picture-queue, and nobody's list has its migrations")
    commands = {
        Keeper.CLI: "picture-queue install && supabase db push; the embedded stack does it "
        "at its start",
        Keeper.MIGRATE: "picture-queue migrate",
    }
    raise InstallationRefused(
        f"The migrations of this database are applied by `{state.keeper}`",
        hint=f"Go on with: {commands[state.keeper]}",
    )


@contextmanager
def connected(settings: DatabaseSettings) -> Iterator["Connection[Any]"]:
    """Opens a connection for the block; what goes wrong in it has a name of this library.

    Raises:
        SettingsError: The driver is not installed.
        PictureQueueError: What the database answered, or that it did not.
    """
    with needs_driver():
        from psycopg import Connection

        from picture_queue._transport.connection import conninfo
        from picture_queue._transport.sqlstate import translate_error
    try:
        with Connection.connect(conninfo(settings), autocommit=True) as connection:
            # Behind a pooler in transaction mode a named statement may meet another session.
            connection.prepare_threshold = None
            yield connection
    except Exception as error:
        translated = translate_error(error, settings)
        raise translated from None if isinstance(translated, SettingsError) else error


def _value(connection: "Connection[Any]", sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return row and row[0]


def _unreleased(message: str) -> InstallationRefused:
    return InstallationRefused(
        message,
        hint="Before 0.1.0 states have no upgrade. picture-queue adopt --preview says what would "
        "come along to a new one",
    )
