"""Applies the shipped SQL to the embedded database, in the ledger the Supabase CLI keeps.

`supabase_migrations.schema_migrations` has the CLI's columns (pkg/migration/history.go of
https://github.com/supabase/cli), so a later start applies new migrations only, and the CLI's own
commands understand the database.
"""

import hashlib
from pathlib import Path

import asyncpg

from picture_queue._resources import migrations, place_of
from picture_queue.errors import LocalStackError

_CONNECT_TIMEOUT = 10.0
_STATEMENT_TIMEOUT = 120.0
_LEDGER = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key,
  statements text[],
  name text
);
"""


# In this order. The first and the last may run again: they are what an older database gets.
_PLATFORM = ("roles", "schemas", "auth", "realtime", "storage", "rights")
_UPGRADE = (_PLATFORM[0], _PLATFORM[-1])


def platform_sql() -> str:
    """Return what a Supabase project has before its first migration.

    A superuser applies it once to a fresh database; the roles may exist. Left out on purpose:
    vault, cron, net, graphql, and default privileges for the API roles in `public`. New projects
    have none since 2026, so a migration that forgets a GRANT fails here too.
    """
    return "\n".join(map(_platform_file, _PLATFORM))


def upgrade_sql() -> str:
    """Return the statements that give the database of an older version today's roles and rights."""
    return "\n".join(map(_platform_file, _UPGRADE))


def _platform_file(name: str) -> str:
    return (Path(__file__).parent / "platform" / f"{name}.sql").read_text(encoding="utf-8")


def platform_digest() -> str:
    """Return the fingerprint of `platform_sql`, kept beside a database that has its roles."""
    return hashlib.sha256(platform_sql().encode()).hexdigest()


async def apply_platform(superuser_dsn: str) -> None:
    """Make the platform's roles, schemas and functions; all of them or none.

    Raises:
        LocalStackError: A statement failed.
    """
    connection = await _connect(superuser_dsn)
    try:
        await _execute(connection, "The platform's SQL", platform_sql())
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT)


async def set_passwords(superuser_dsn: str, sql: str) -> None:
    """Run the statements that give roles their passwords, and keep them out of the server's log.

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
    """Apply the migrations the database does not have yet, each in one transaction.

    Returns:
        The names of the files applied now.

    Raises:
        LocalStackError: A migration failed; those before it stay applied.
    """
    connection = await _connect(dsn)
    applied = []
    try:
        await connection.execute(_LEDGER)
        known = await connection.fetch("select version from supabase_migrations.schema_migrations")
        versions = {row["version"] for row in known}
        for file in migrations():
            if file.version not in versions:
                ledger = (file.version, [file.sql], file.title)
                await _execute(connection, file.file_name, file.sql, ledger)
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
            f"The stack's own database refuses it: {error}",
            hint="Was a password changed? `picture-queue local reset` makes a new database.",
        ) from error


async def _execute(
    connection: "asyncpg.Connection[asyncpg.Record]",
    file_name: str,
    sql: str,
    ledger: tuple[str, list[str], str] | None = None,
) -> None:
    try:
        async with connection.transaction():
            await connection.execute(sql)
            if ledger:
                await connection.execute(
                    "insert into supabase_migrations.schema_migrations (version, statements, name)"
                    " values ($1, $2, $3)",
                    *ledger,
                )
    except asyncpg.PostgresError as error:
        place = place_of(sql, getattr(error, "position", None), getattr(error, "context", None))
        raise LocalStackError(f"{file_name} cannot be applied: {error}", detail=place) from error
