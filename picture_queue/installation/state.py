"""The migrations that a database has, and the tool that applies them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from picture_queue._loopback import is_loopback
from picture_queue._resources import Migration
from picture_queue._transport.errors import needs_driver
from picture_queue.errors import InstallationRefused, SettingsError
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection

# to_regclass takes names as text, so none of these tables must exist.
_READ = """
select jsonb_build_object(
  'schema', to_regnamespace('picture_queue') is not null,
  'jobs', to_regclass('public.job_queue') is not null,
  'own_list', to_regclass('picture_queue.migration') is not null,
  'cli_list', to_regclass('supabase_migrations.schema_migrations') is not null)
"""
_OWN = "select name, digest from picture_queue.migration"
_CLI = "select version, name from supabase_migrations.schema_migrations"


class MigrationTool(StrEnum):
    """The tool that applies the migrations of a database."""

    NONE = "none"  # picture-queue is not installed
    MIGRATE = "picture-queue migrate"
    CLI = "supabase db push"
    EMBEDDED = "picture-queue local start"  # the embedded stack, when it starts
    UNKNOWN = "unknown"  # it is installed, but no list has its migrations
    OTHER_QUEUE = "other queue"  # another table public.job_queue exists


@dataclass(frozen=True)
class State:
    """The installation in a database.

    Args:
        tool: The tool that applies its migrations.
        applied: Names of applied migrations of ours, with their digests if known.
    """

    tool: MigrationTool
    applied: dict[str, str | None]

    def expect_known(self, shipped: list[Migration]) -> None:
        """Check that the applied migrations are those of this package, unchanged.

        Raises:
            InstallationRefused: One is unknown, or was changed before its release.
        """
        known = {file.name: file for file in shipped}
        for name, digest in self.applied.items():
            if name not in known:
                raise InstallationRefused(
                    f"The database has {name}, which this package does not know",
                    hint="Upgrade this package: pip install --upgrade picture-queue",
                )
            if digest not in (None, known[name].digest):
                raise _unreleased(f"{name} was applied in a version from before its release")


def read(connection: "Connection[Any]", shipped: list[Migration]) -> State:
    """Read the state of a database.

    Args:
        connection: A connection to it.
        shipped: The migrations of this package.

    Raises:
        psycopg.Error: It cannot be read.
    """
    there = _value(connection, _READ)
    own: dict[str, str | None] = {}
    if there["own_list"]:
        own = dict(connection.execute(_OWN).fetchall())
    if own:
        return State(MigrationTool.MIGRATE, own)
    pushed, names = set(), set()
    if there["cli_list"]:
        for version, name in connection.execute(_CLI):
            names.add(name)
            # With the timestamp of `install`, or with the original one.
            pushed |= {name, f"{version}_{name}"}
    ours: dict[str, str | None] = {file.name: None for file in shipped if file.name in pushed}
    if ours and there["schema"]:
        # `install` gives each file a new timestamp; the embedded stack keeps the original one.
        is_embedded = is_loopback(connection.info.host) and not ours.keys() <= names
        return State(MigrationTool.EMBEDDED if is_embedded else MigrationTool.CLI, ours)
    if there["schema"]:
        return State(MigrationTool.UNKNOWN, {})
    return State(MigrationTool.OTHER_QUEUE if there["jobs"] else MigrationTool.NONE, {})


def expect_tool(state: State, wanted: MigrationTool) -> None:
    """Check that a tool may apply migrations to a database.

    Args:
        state: The state of the database.
        wanted: The tool.

    Raises:
        InstallationRefused: Another tool applies them, or another queue must be adopted first.
    """
    if state.tool in (MigrationTool.NONE, wanted):
        return
    if state.tool is MigrationTool.OTHER_QUEUE:
        raise InstallationRefused(
            "The database has another job queue: public.job_queue exists",
            hint="Preview its adoption: picture-queue adopt --preview",
        )
    if state.tool is MigrationTool.UNKNOWN:
        raise _unreleased("The database has picture-queue, but no list has its migrations")
    commands = {
        MigrationTool.CLI: "picture-queue install && supabase db push",
        MigrationTool.EMBEDDED: "picture-queue local stop, then picture-queue local start",
        MigrationTool.MIGRATE: "picture-queue migrate",
    }
    raise InstallationRefused(
        f"The migrations of this database are applied by `{state.tool}`",
        hint=f"Use: {commands[state.tool]}",
    )


@contextmanager
def connected(settings: DatabaseSettings) -> Iterator["Connection[Any]"]:
    """Open a connection for the block, and translate its errors.

    Raises:
        SettingsError: The driver is not installed.
        PictureQueueError: The database refused a statement, or did not answer.
    """
    with needs_driver():
        from psycopg import Connection

        from picture_queue._transport.connection import conninfo
        from picture_queue._transport.errors import translate_database_error
    try:
        with Connection.connect(conninfo(settings), autocommit=True) as connection:
            # Behind a pooler in transaction mode a named statement may reach another session.
            connection.prepare_threshold = None
            yield connection
    except Exception as error:
        translated = translate_database_error(error, settings)
        raise translated from None if isinstance(translated, SettingsError) else error


def _value(connection: "Connection[Any]", sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return row and row[0]


def _unreleased(message: str) -> InstallationRefused:
    return InstallationRefused(
        message,
        hint="Pre-release schemas cannot be upgraded. Preview their adoption: "
        "picture-queue adopt --preview",
    )
