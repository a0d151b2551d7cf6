"""The server all systems share: durable, and with its settings on record."""

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

API_DATABASE = "postgres"  # the one behind the API
Connection = Any  # asyncpg.Connection[asyncpg.Record], which is no type at run time
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
#: What must hold while anything is measured.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


class Server:
    """A running server.

    Args:
        stack: The embedded stack, of which the database is used, and the API.
        control: A connection of the superuser.
    """

    def __init__(self, stack: LocalSupabase, control: Connection) -> None:
        self.stack = stack
        self._control = control

    @property
    def api(self) -> str:
        """The address and the key of its API, as JSON."""
        return json.dumps({"url": self.stack.api_url, "key": self.stack.service_role_key})

    def dsn(self, database: str, user: str = "supabase_admin") -> str:
        """Return the address of a database."""
        # Not every system's driver takes the socket of the superuser's address.
        parts, own = urlsplit(self.stack.db_url), urlsplit(self.stack.superuser_url)
        password = parts.password if user == "postgres" else own.password
        host = f"{user}:{password}@{parts.hostname}:{parts.port}"
        return urlunsplit(("postgresql", host, f"/{database}", "", ""))

    async def settings(self, *, durable: bool = True) -> dict[str, str]:
        """Return the settings in force.

        Args:
            durable: Whether commits have to be durable.

        Raises:
            RuntimeError: A commit would not be durable: nothing measured so would be worth reading.
        """
        names = [*DURABLE, *SETTINGS, "server_version", "wal_level", "jit"]
        found = {name: await self._control.fetchval(f"show {name}") for name in names}
        wrong = {name: found[name] for name, value in DURABLE.items() if found[name] != value}
        if wrong and durable:
            raise RuntimeError(f"the server is not durable: {wrong}")
        return found

    async def autovacuum(self, on: bool) -> None:
        """Switch it: it would come in the middle of what is measured after a million inserts."""
        await self._control.execute(f"alter system set autovacuum = {'on' if on else 'off'}")
        await self._control.execute("select pg_reload_conf()")

    async def make(self, database: str) -> None:
        """Make an empty database."""
        await self.drop(database)
        await self._control.execute(f'create database "{database}"')

    async def drop(self, database: str) -> None:
        """Drop a database, if it is there."""
        await self._control.execute(f'drop database if exists "{database}" with (force)')

    async def make_ours(self, database: str, migrations: Sequence[str] | None = None) -> None:
        """Make a database with what a Supabase project has, and our SQL.

        Args:
            database: Its name.
            migrations: The SQL to apply; None takes that of the working tree.
        """
        await self.make(database)
        await self._control.execute(f'alter database "{database}" owner to postgres')
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
        """Empty a database of ours that the API serves, and which cannot be replaced so."""
        connection = await asyncpg.connect(self.dsn(database), command_timeout=120)
        await connection.execute(
            "truncate public.job_queue, picture_queue.depth, picture_queue.depth_change cascade"
        )
        await connection.close()
        await self._control.execute("checkpoint")

    async def copy(self, template: str, database: str) -> None:
        """Make a database like another one, and begins with a clean slate of unwritten pages."""
        await self.drop(database)
        await self._control.execute(f'create database "{database}" template "{template}"')
        await self._control.execute("checkpoint")


@asynccontextmanager
async def running(programs: Path, *, durable: bool = True) -> AsyncIterator[Server]:
    """Start a server in a directory of its own, deleted at the end.

    Args:
        programs: The directory of the Postgres programs.
        durable: Whether commits are flushed to disk.
    """
    os.environ[POSTGRES_SETTING] = str(programs)
    with TemporaryDirectory(dir="/var/tmp", prefix="pq-bench-") as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - Postgres runs as another user, and reaches through
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
