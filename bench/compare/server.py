"""The Postgres server that all systems share, with durable commits and recorded settings."""

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from picture_queue.local.binaries import POSTGRES_SETTING
from picture_queue.local.migrate import apply_migrations, apply_platform
from picture_queue.local.stack import LocalSupabase

API_DATABASE = "postgres"  # The database behind the API.
Connection = Any  # The type asyncpg.Connection[asyncpg.Record] does not exist at run time.
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
#: Settings that must have these values in every measurement.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


class Server:
    """A running server.

    Args:
        stack: The embedded stack, whose database and API are used.
        control: A connection of the superuser.
    """

    def __init__(self, stack: LocalSupabase, control: Connection) -> None:
        self.stack = stack
        self._control = control

    @property
    def api(self) -> str:
        """The address and the key of the API, as JSON."""
        return json.dumps({"url": self.stack.api_url, "key": self.stack.service_role_key})

    def dsn(self, database: str, user: str = "supabase_admin") -> str:
        """Return the address of a database."""
        # Some drivers do not support the socket of the superuser's address.
        url, superuser_url = urlsplit(self.stack.db_url), urlsplit(self.stack.superuser_url)
        password = url.password if user == "postgres" else superuser_url.password
        netloc = f"{user}:{password}@{url.hostname}:{url.port}"
        return urlunsplit(("postgresql", netloc, f"/{database}", "", ""))

    async def settings(self, *, durable: bool = True) -> dict[str, str]:
        """Return the current settings.

        Args:
            durable: True if commits must be durable.

        Raises:
            RuntimeError: Commits would not be durable, so that a comparison would be invalid.
        """
        names = [*DURABLE, *SETTINGS, "server_version", "wal_level", "jit"]
        settings = {name: await self._control.fetchval(f"show {name}") for name in names}
        wrong = {name: settings[name] for name, value in DURABLE.items() if settings[name] != value}
        if wrong and durable:
            raise RuntimeError(f"the server is not durable: {wrong}")
        return settings

    async def set_autovacuum(self, on: bool) -> None:
        """Turn autovacuum on, or turn it off so that it does not disturb measurements."""
        await self._control.execute(f"alter system set autovacuum = {'on' if on else 'off'}")
        await self._control.execute("select pg_reload_conf()")

    async def create(self, database: str) -> None:
        """Create an empty database of `postgres`, the role of every compared system."""
        await self.drop(database)
        await self._control.execute(f'create database "{database}" owner postgres')

    async def drop(self, database: str) -> None:
        """Drop a database if it exists."""
        await self._control.execute(f'drop database if exists "{database}" with (force)')

    async def create_ours(self, database: str, migrations: Sequence[str] | None = None) -> None:
        """Create a database with the objects of a Supabase project, and our SQL.

        Args:
            database: The name of the database.
            migrations: The SQL to apply; by default the migrations of the working tree.
        """
        await self.create(database)
        await apply_platform(self.dsn(database))
        if migrations is None:
            await apply_migrations(self.dsn(database, "postgres"))
            return
        connection = await asyncpg.connect(self.dsn(database, "postgres"), command_timeout=120)
        try:
            for sql in migrations:
                async with connection.transaction():
                    await connection.execute(sql)
        finally:
            await connection.close()

    async def clear(self, database: str) -> None:
        """Delete the jobs in the database of the API, which cannot be dropped."""
        connection = await asyncpg.connect(self.dsn(database), command_timeout=120)
        await connection.execute(
            "truncate public.job_queue, picture_queue.depth, picture_queue.depth_change cascade"
        )
        await connection.close()
        await self._control.execute("checkpoint")

    async def copy(self, template: str, database: str) -> None:
        """Copy a database, and write all dirty pages to disk."""
        await self.drop(database)
        await self._control.execute(
            f'create database "{database}" template "{template}" owner postgres'
        )
        await self._control.execute("checkpoint")


@asynccontextmanager
async def run_server(programs: Path, *, durable: bool = True) -> AsyncIterator[Server]:
    """Run a server in its own directory, which is deleted at the end.

    Args:
        programs: The directory of the Postgres programs.
        durable: True to flush commits to disk.
    """
    os.environ[POSTGRES_SETTING] = str(programs)
    with TemporaryDirectory(dir="/var/tmp", prefix="pq-bench-") as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - Postgres runs as another user, and must traverse it
        data = Path(directory) / "data"
        async with LocalSupabase(data, durable=durable) as stack:
            server = Server(stack, None)
            control = await asyncpg.connect(server.dsn("postgres"))
            for name, value in SETTINGS.items():
                await control.execute(f"alter system set {name} = '{value}'")
            await control.close()
        async with LocalSupabase(data, durable=durable) as stack:
            server = Server(stack, None)
            control = await asyncpg.connect(server.dsn("template1"), command_timeout=120)
            try:
                yield Server(stack, control)
            finally:
                await control.close()
