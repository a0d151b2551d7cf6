"""Apply Supabase's roles and schemas, and our migrations, to the embedded database.

The applied migrations are recorded in the table of the Supabase CLI,
`supabase_migrations.schema_migrations` (pkg/migration/history.go of
https://github.com/supabase/cli). So a later start applies only new migrations, and the commands of
the CLI work with the database.
"""

import hashlib
from pathlib import Path

import asyncpg

from picture_queue._resources import find_place, migrations
from picture_queue.errors import LocalStackError

_CONNECT_TIMEOUT = 10.0  # seconds
_STATEMENT_TIMEOUT = 120.0  # seconds
_CREATE_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key,
  statements text[],
  name text
);
"""


# The SQL files that create Supabase's roles and schemas, in the order in which they are applied.
_PLATFORM = ("roles", "schemas", "auth", "realtime", "storage", "http", "privileges")
#: The files that also upgrade the database of an older version.
_UPGRADE = ("roles", "http", "privileges")


def platform_sql() -> str:
    """Return the SQL of the objects that a Supabase project has before its first migration.

    A superuser applies the SQL once to a fresh database. The roles may exist already. The SQL
    leaves out the extensions pg_cron and pg_graphql, and has only small parts of pg_net and vault.
    It also leaves out default privileges for the API roles in `public`: new projects have none
    since 2026, so a migration that forgets a GRANT fails here too.
    """
    return "\n".join(map(_platform_file, _PLATFORM))


def upgrade_sql() -> str:
    """Return the SQL that gives an older database the roles and privileges of this version."""
    return "\n".join(map(_platform_file, _UPGRADE))


def _platform_file(name: str) -> str:
    return (Path(__file__).parent / "platform" / f"{name}.sql").read_text(encoding="utf-8")


def platform_digest() -> str:
    """Return the digest of `platform_sql`, which is stored next to the database."""
    return hashlib.sha256(platform_sql().encode()).hexdigest()


async def apply_platform(superuser_dsn: str) -> None:
    """Create Supabase's roles, schemas and functions in one transaction.

    Raises:
        LocalStackError: A statement failed.
    """
    connection = await _connect(superuser_dsn)
    try:
        await _execute(connection, "The platform's SQL", platform_sql())
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT)


async def set_passwords(superuser_dsn: str, sql: str) -> None:
    """Set the passwords of the roles, without writing them to the server's log.

    Raises:
        LocalStackError: A statement failed.
    """
    connection = await _connect(superuser_dsn)
    try:
        await connection.execute("set log_min_error_statement = panic; set log_statement = none")
        await _execute(connection, "The passwords", sql)
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT)


async def apply_migrations(dsn: str) -> list[str]:
    """Apply the migrations that the database does not have yet, each in one transaction.

    Returns:
        The names of the files that were applied.

    Raises:
        LocalStackError: A migration failed; the migrations before it stay applied.
    """
    connection = await _connect(dsn)
    applied = []
    try:
        await connection.execute(_CREATE_HISTORY)
        rows = await connection.fetch("select version from supabase_migrations.schema_migrations")
        recorded_versions = {row["version"] for row in rows}
        for file in migrations():
            if file.version not in recorded_versions:
                history_row = (file.version, [file.sql], file.title)
                await _execute(connection, file.file_name, file.sql, history_row)
                applied.append(file.file_name)
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT)
    return applied


async def _connect(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    try:
        return await asyncpg.connect(
            dsn, timeout=_CONNECT_TIMEOUT, command_timeout=_STATEMENT_TIMEOUT
        )
    except (OSError, asyncpg.PostgresError) as error:
        raise LocalStackError(
            f"The stack cannot connect to its database: {error}",
            hint="Was a password changed? `picture-queue local reset` makes a new database.",
        ) from error


async def _execute(
    connection: "asyncpg.Connection[asyncpg.Record]",
    file_name: str,
    sql: str,
    history_row: tuple[str, list[str], str] | None = None,
) -> None:
    try:
        async with connection.transaction():
            await connection.execute(sql)
            if history_row:
                await connection.execute(
                    "insert into supabase_migrations.schema_migrations (version, statements, name)"
                    " values ($1, $2, $3)",
                    *history_row,
                )
    except asyncpg.PostgresError as error:
        line = find_place(sql, getattr(error, "position", None), getattr(error, "context", None))
        raise LocalStackError(f"{file_name} cannot be applied: {error}", detail=line) from error
