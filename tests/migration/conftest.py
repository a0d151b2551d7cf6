"""Databases on the cluster of the stack, with Supabase's schemas but without our migrations."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from picture_queue._resources import Migration, migrations
from picture_queue.installation import database, folder
from picture_queue.local.migrate import apply_platform
from picture_queue.settings import KEY_VARIABLES, DatabaseSettings
from picture_queue_cli.app import app

from ..databases import database_url, execute


@dataclass(frozen=True)
class Database:
    """A database and its owner `postgres`, who is not a superuser and runs all statements."""

    url: str

    @property
    def settings(self) -> DatabaseSettings:
        return DatabaseSettings(self.url)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        connection = await asyncpg.connect(self.url, timeout=10, command_timeout=30)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def run(self, sql: str, *args: Any) -> None:
        async with self.connect() as connection:
            await connection.execute(sql, *args)

    async def value(self, sql: str, *args: Any) -> Any:
        async with self.connect() as connection:
            return await connection.fetchval(sql, *args)

    async def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        async with self.connect() as connection:
            return [tuple(row) for row in await connection.fetch(sql, *args)]


@pytest.fixture
def new_database(stack: Any) -> Iterator[Database]:
    """A database like that of a new project."""
    name = f"bare_{uuid4().hex[:8]}"
    admin = database_url(stack.superuser_url, "postgres")
    asyncio.run(execute(admin, f"create database {name} owner postgres"))
    try:
        asyncio.run(apply_platform(database_url(stack.superuser_url, name)))
        yield Database(database_url(stack.db_url, name))
    finally:
        asyncio.run(execute(admin, f"drop database {name} with (force)"))


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the CLI in an empty directory, without settings of a project."""
    monkeypatch.chdir(tmp_path)
    for name in (*KEY_VARIABLES, "SUPABASE_URL", "PICTURE_QUEUE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: str, **environ: str) -> Result:
        return CliRunner(env=environ).invoke(app, args, prog_name="picture-queue")

    return call


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that adds migrations to the package, or with `instead` replaces them."""

    def replace_migrations(*files: Migration, instead: bool = False) -> None:
        shipped = [*([] if instead else migrations()), *files]
        for module in (database, folder):
            monkeypatch.setattr(module, "migrations", lambda: list(shipped))

    return replace_migrations
