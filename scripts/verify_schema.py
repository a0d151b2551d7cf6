"""Check that the migrations and the schema files create the same database.

The role `postgres` applies the migrations to one database of a temporary stack and the schema files
to another, as in a Supabase project. The dumps, with grants, policies and comments, must be equal,
and so must the rows that the SQL inserts. If they differ, the script prints the difference and
exits with 1.
"""

import asyncio
import difflib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from connection import split_password

from picture_queue._resources import migrations
from picture_queue.local.binaries import find_postgres
from picture_queue.local.migrate import apply_platform
from picture_queue.local.stack import LocalSupabase

SCHEMAS = Path(__file__).resolve().parent.parent / "supabase" / "schemas"
TIMEOUT = 60.0  # seconds, for each batch of statements and each dump
DATA = (
    "select * from picture_queue.model order by 1",
    "select * from picture_queue.input_rule order by 1, 3, 2, 4",
    "select * from picture_queue.state_transition order by 1, 2, 3",
    "select * from picture_queue.setting",
    "select name, events from picture_queue.queue order by 1",
    "select id, name, public from storage.buckets order by 1",
)


def database_url(url: str, database: str) -> str:
    """Return the address of another database of the same server, for the same role."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def build_database(
    stack: LocalSupabase, name: str, scripts: Sequence[tuple[str, str]]
) -> list[str]:
    """Create a database from SQL scripts, and return the lines of its dump and its rows.

    Args:
        stack: The stack in which to create the database.
        name: The name of the database.
        scripts: The file name and the SQL of each script.
    """
    admin = await asyncpg.connect(stack.superuser_url, timeout=TIMEOUT)
    await admin.execute(f"create database {name} owner postgres")
    await admin.close()
    await apply_platform(database_url(stack.superuser_url, name))
    url = database_url(stack.db_url, name)
    connection = await asyncpg.connect(url, timeout=TIMEOUT, command_timeout=TIMEOUT)
    for file, sql in scripts:
        try:
            async with connection.transaction():
                await connection.execute(sql)
        except asyncpg.PostgresError as error:
            raise SystemExit(f"{file}: {error}") from error
    data = [str(dict(row)) for query in DATA for row in await connection.fetch(query)]
    await connection.close()
    address, environment = split_password(url)
    options = ("--schema-only", "--no-owner", "--restrict-key=x")
    dump = subprocess.run(
        [find_postgres().path / "pg_dump", *options, address],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return dump.stdout.splitlines() + data


async def main() -> int:
    """Build both databases and compare them."""
    files = [(file.name, file.read_text("utf-8")) for file in sorted(SCHEMAS.glob("*.sql"))]
    async with LocalSupabase() as stack:
        schemas = await build_database(stack, "schemas", files)
        migrated = await build_database(stack, "migrated", migrations())
    difference = list(
        difflib.unified_diff(migrated, schemas, "migrations", "schemas", lineterm="", n=2)
    )
    print("\n".join(difference) or f"migrations and schemas are equal ({len(schemas)} lines)")
    return int(bool(difference))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
