"""Proves that the migrations and the schema files lead to the same database.

Both are applied, as the role `postgres` of a Supabase project, to databases of one throwaway
cluster; the dumps, with grants, policies and comments, must be equal, and so must the rows that a
dump of the schema does not show. Prints the difference and exits with 1 otherwise.
"""

import asyncio
import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg

from picture_queue._resources import migrations
from picture_queue.local.cluster import STOP_SIGNALS, Cluster
from picture_queue.local.migrate import apply_platform
from picture_queue.local.paths import service_user
from picture_queue.local.ports import free_port
from picture_queue.local.processes import stop

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "supabase" / "schemas"
TIMEOUT = 60.0  # seconds, for each statement batch and each dump
DATA = (
    "select * from picture_queue.model order by 1",
    "select * from picture_queue.edge order by 1, 2, 3",
    "select * from picture_queue.setting",
    "select name, events from picture_queue.queue order by 1",
    "select id, name, public from storage.buckets order by 1",
)


async def build(cluster: Cluster, name: str, scripts: list[tuple[str, str]]) -> list[str]:
    """Makes a database of these scripts and returns its dump and its data, line by line."""
    admin = await asyncpg.connect(cluster.superuser_dsn, timeout=TIMEOUT)
    await admin.execute(f"create database {name} template platform owner postgres")
    await admin.close()
    dsn = cluster.dsn.rsplit("/", 1)[0] + f"/{name}"
    connection = await asyncpg.connect(dsn, timeout=TIMEOUT, command_timeout=TIMEOUT)
    for file, sql in scripts:
        try:
            async with connection.transaction():
                await connection.execute(sql)
        except asyncpg.PostgresError as error:
            raise SystemExit(f"{file}: {error}") from error
    data = [str(dict(row)) for query in DATA for row in await connection.fetch(query)]
    await connection.close()
    dump = subprocess.run(
        [cluster.program.path / "pg_dump", "--schema-only", "--no-owner", "--restrict-key=x", dsn],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return dump.stdout.splitlines() + data


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="picture-queue-", ignore_cleanup_errors=True) as path:
        directory = Path(path)
        directory.chmod(0o755)
        cluster = Cluster(
            directory, log=directory / "postgres.log", user=service_user(), durable=False
        )
        await cluster.initialise()
        process = await cluster.start(free_port())
        try:
            await apply_platform(cluster.superuser_dsn)
            admin = await asyncpg.connect(
                cluster.superuser_dsn.rsplit("/", 1)[0] + "/template1", timeout=TIMEOUT
            )
            await admin.execute("create database platform template postgres")
            await admin.close()
            files = sorted(SCHEMAS.glob("*.sql"))
            schemas = await build(
                cluster, "schemas", [(file.name, file.read_text("utf-8")) for file in files]
            )
            migrated = await build(cluster, "migrated", migrations())
        finally:
            await stop(process, STOP_SIGNALS)
    difference = list(
        difflib.unified_diff(migrated, schemas, "migrations", "schemas", lineterm="", n=2)
    )
    print("\n".join(difference) or f"migrations and schemas are equal ({len(schemas)} lines)")
    return int(bool(difference))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
