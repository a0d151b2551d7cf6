"""A gateway of the test's own, over a database that holds the platform and nothing else."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import uvicorn

from picture_queue.local.gateway import GatewaySettings, create_app
from picture_queue.local.migrate import apply_platform
from picture_queue.local.ports import HOST, free_port


@dataclass(frozen=True)
class Platform:
    """A fresh database on the stack's cluster, and settings for a gateway over it."""

    settings: GatewaySettings

    @contextlib.contextmanager
    def serve(self, **changes: Any) -> Iterator[str]:
        """Serves a gateway from a thread; gives its address."""
        port = free_port()
        url = f"http://{HOST}:{port}"
        settings = replace(self.settings, api_url=url, **changes)
        config = uvicorn.Config(
            create_app(settings),
            host=HOST,
            port=port,
            log_config=None,
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started:
                assert thread.is_alive() and time.monotonic() < deadline, (
                    "the gateway did not start"
                )
                time.sleep(0.005)
            yield url
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive(), "the gateway did not stop"

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection as the superuser."""
        connection = await asyncpg.connect(self.settings.database_url, timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


@pytest.fixture(scope="session")
def platform(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform without picture-queue's migrations, so that a test may make any bucket."""
    admin = _dsn(stack.db_url, "postgres")
    database = f"platform_{uuid4().hex[:8]}"
    asyncio.run(_execute(admin, f"create database {database}"))
    try:
        yield Platform(_settings(stack, _dsn(stack.db_url, database), tmp_path_factory.mktemp("s")))
    finally:
        asyncio.run(_execute(admin, f"drop database {database} with (force)"))


def _settings(stack: Any, database_url: str, storage_dir: Path) -> GatewaySettings:
    asyncio.run(apply_platform(database_url))
    return GatewaySettings(
        # Nobody listens on port 9: no test of ours goes to PostgREST with this database.
        postgrest_url=f"http://{HOST}:9",
        database_url=database_url,
        jwt_secret=stack.jwt_secret,
        api_url="",
        storage_dir=storage_dir,
        anon_key=stack.anon_key,
        service_role_key=stack.service_role_key,
        publishable_key=stack.publishable_key,
        secret_key=stack.secret_key,
    )


def _dsn(dsn: str, database: str) -> str:
    parts = urlsplit(dsn)
    netloc = parts.netloc.replace("postgres:", "supabase_admin:", 1)
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)
