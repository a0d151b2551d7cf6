"""The applied migrations of a database, and the tool that applies them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from picture_queue._loopback import is_loopback
from picture_queue._resources import Migration
from picture_queue._transport.errors import require_driver
from picture_queue.errors import InstallationRefused, SettingsError
from picture_queue.settings import DatabaseSettings

if TYPE_CHECKING:
    from psycopg import Connection

# Whether the schema, the table of jobs and the two lists of migrations exist. to_regclass returns
# null for a name that does not exist. A list counts only if it belongs to a role with all rights of
# the current role or of the owner of the database: reading a table of another role could run code
# of that role.
_EXISTENCE_QUERY = """
with trusted as (
  select c.oid from pg_catalog.pg_class c
  cross join pg_catalog.pg_database d
  where d.datname = current_database() and c.relkind = 'r' and (
    pg_has_role(c.relowner, current_user, 'member') or pg_has_role(c.relowner, d.datdba, 'member'))
)
select jsonb_build_object(
  'schema', to_regnamespace('picture_queue') is not null,
  'jobs', to_regclass('public.job_queue') is not null,
  'own_list', exists (
    select from trusted t where t.oid = to_regclass('picture_queue.migration')),
  'cli_list', exists (
    select from trusted t where t.oid = to_regclass('supabase_migrations.schema_migrations')))
"""
_OWN_LIST_QUERY = "select name, digest from picture_queue.migration"
_CLI_LIST_QUERY = "select version, name from supabase_migrations.schema_migrations"


class MigrationTool(StrEnum):
    """The tool that applies the migrations of a database."""

    NONE = "none"  # picture-queue is not installed
    MIGRATE = "picture-queue migrate"
    CLI = "supabase db push"
    EMBEDDED = "picture-queue local start"  # the embedded stack, when it starts
    UNKNOWN = "unknown"  # picture-queue is installed, but no table lists its migrations
    OTHER_QUEUE = "other queue"  # public.job_queue belongs to another job queue


#: The command that applies pending migrations, for each tool.
COMMANDS = {
    MigrationTool.MIGRATE: "picture-queue migrate",
    MigrationTool.CLI: "picture-queue install && supabase db push",
    MigrationTool.EMBEDDED: "picture-queue local stop, then picture-queue local start",
}


@dataclass(frozen=True)
class State:
    """The state of the installation in a database.

    Args:
        tool: The tool that applies the migrations.
        applied: The names of the applied migrations, each with its digest if known.
    """

    tool: MigrationTool
    applied: dict[str, str | None]

    def expect_known(self, shipped: list[Migration]) -> None:
        """Check that this package has all applied migrations, with the same content.

        Raises:
            InstallationRefused: A migration is unknown, or was applied in a pre-release version.
        """
        digests = {migration.name: migration.digest for migration in shipped}
        for name, digest in self.applied.items():
            if name not in digests:
                raise InstallationRefused(
                    f"The database has {name}, which this package does not know",
                    hint="Upgrade this package: pip install --upgrade picture-queue",
                )
            if digest not in (None, digests[name]):
                raise _prerelease(f"{name} was applied in a pre-release version")


def read(connection: "Connection[Any]", shipped: list[Migration]) -> State:
    """Read the state of a database.

    Args:
        connection: A connection to the database.
        shipped: The migrations of this package.

    Raises:
        psycopg.Error: The database refused a query.
    """
    row = connection.execute(_EXISTENCE_QUERY).fetchone()
    exists: dict[str, bool] = row[0] if row else {}
    own_list: dict[str, str | None] = {}
    if exists["own_list"]:
        own_list = dict(connection.execute(_OWN_LIST_QUERY).fetchall())
    if own_list:
        return State(MigrationTool.MIGRATE, own_list)
    # The names in the list of the CLI, and the same names with the versions before them.
    names, full_names = set(), set()
    if exists["cli_list"]:
        for version, name in connection.execute(_CLI_LIST_QUERY):
            # The CLI splits a file name into a timestamp and a name. `picture-queue install` puts a
            # new timestamp before our name, so the name in the list is our name. In a file with the
            # original timestamp, the timestamp is a part of our name.
            names.add(name)
            full_names.add(f"{version}_{name}")
    applied: dict[str, str | None] = {
        migration.name: None for migration in shipped if migration.name in names | full_names
    }
    if applied and exists["schema"]:
        # The embedded stack, which is on this machine, keeps the original timestamps.
        is_embedded = is_loopback(connection.info.host) and not applied.keys() <= names
        return State(MigrationTool.EMBEDDED if is_embedded else MigrationTool.CLI, applied)
    if exists["schema"]:
        return State(MigrationTool.UNKNOWN, {})
    return State(MigrationTool.OTHER_QUEUE if exists["jobs"] else MigrationTool.NONE, {})


def expect_tool(state: State, tool: MigrationTool) -> None:
    """Check that a tool may apply migrations to a database.

    Args:
        state: The state of the database.
        tool: The tool.

    Raises:
        InstallationRefused: Another tool applies the migrations, or another queue must be adopted
            first.
    """
    if state.tool in (MigrationTool.NONE, tool):
        return
    if state.tool is MigrationTool.OTHER_QUEUE:
        raise InstallationRefused(
            "The database has another job queue: public.job_queue exists",
            hint="Preview its adoption: picture-queue adopt --preview",
        )
    if state.tool is MigrationTool.UNKNOWN:
        raise _prerelease("The database has picture-queue, but no table lists its migrations")
    raise InstallationRefused(
        f"The migrations of this database are applied by `{state.tool}`",
        hint=f"Use: {COMMANDS[state.tool]}",
    )


@contextmanager
def connected(settings: DatabaseSettings) -> Iterator["Connection[Any]"]:
    """Open a connection for the duration of the block, and translate its errors.

    Raises:
        SettingsError: The driver is not installed.
        PictureQueueError: The database refused a statement, or did not answer.
    """
    with require_driver():
        from psycopg import Connection

        from picture_queue._transport.connection import conninfo
        from picture_queue._transport.errors import translate_database_error
    try:
        with Connection.connect(conninfo(settings), autocommit=True) as connection:
            # Behind a pooler in transaction mode, each statement may run in another session, which
            # lacks the prepared statements of this session.
            connection.prepare_threshold = None
            yield connection
    except Exception as error:
        translated = translate_database_error(error, settings)
        raise translated from None if isinstance(translated, SettingsError) else error


def _prerelease(message: str) -> InstallationRefused:
    return InstallationRefused(
        message,
        hint="Pre-release schemas cannot be upgraded. Preview their adoption: "
        "picture-queue adopt --preview",
    )
