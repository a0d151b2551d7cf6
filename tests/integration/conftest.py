"""Fixtures: a gateway for a database with the schemas of Supabase, but without our migrations."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import jwt
import pytest
import uvicorn

from picture_queue.local.gateway import FRAME_LIMIT, GatewaySettings, create_app
from picture_queue.local.keys import Secrets
from picture_queue.local.migrate import apply_platform
from picture_queue.local.ports import HOST, free_port

from ..databases import database_url, execute, role_url

# The answers in tests/fixtures were recorded with `supabase start`, which uses these keys on every
# machine.
RECORDED = Secrets(
    superuser_password="",
    authenticator_password="",
    auth_password="",
    realtime_password="",
    storage_password="",
    database_password="",
    jwt_secret="super-secret-jwt-token-with-at-least-32-characters-long",
    publishable_key="sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH",
    secret_key="sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz",
    simulator_token="",
)


@dataclass(frozen=True)
class Platform:
    """A new database on the stack's cluster, and the settings of a gateway for it."""

    settings: GatewaySettings
    superuser_url: str

    @contextlib.contextmanager
    def serve(self, **changes: Any) -> Iterator[str]:
        """Serve a gateway from a thread; yield its address."""
        port = free_port()
        url = f"http://{HOST}:{port}"
        settings = replace(self.settings, api_url=url, **changes)
        config = uvicorn.Config(
            create_app(settings),
            host=HOST,
            port=port,
            log_config=None,
            ws="websockets-sansio",
            ws_max_size=FRAME_LIMIT,
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

    def token(self, user_id: UUID, *, seconds: int = 3600) -> str:
        """Return a token of a signed-in user."""
        now = int(time.time())
        claims = {
            "sub": str(user_id),
            "role": "authenticated",
            "aud": "authenticated",
            "iat": now,
            "exp": now + seconds,
        }
        return jwt.encode(claims, self.settings.jwt_secret, algorithm="HS256")

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Open a connection as the superuser."""
        connection = await asyncpg.connect(self.superuser_url, timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


NewPlatform = Callable[[Any], contextlib.AbstractContextManager[Platform]]


@pytest.fixture(scope="module")
def new_platform(tmp_path_factory: pytest.TempPathFactory) -> NewPlatform:
    """Return a function that creates a platform without our migrations, on the stack's cluster."""

    @contextlib.contextmanager
    def create(stack: Any) -> Iterator[Platform]:
        admin = database_url(stack.superuser_url, "postgres")
        database = f"platform_{uuid4().hex[:8]}"
        asyncio.run(execute(admin, f"create database {database}"))
        try:
            superuser = database_url(stack.superuser_url, database)
            asyncio.run(apply_platform(superuser))
            yield Platform(_settings(stack, database, tmp_path_factory.mktemp("s")), superuser)
        finally:
            asyncio.run(execute(admin, f"drop database {database} with (force)"))

    return create


@pytest.fixture(scope="module")
def platform(stack: Any, new_platform: NewPlatform) -> Iterator[Platform]:
    """A platform for each test file."""
    with new_platform(stack) as created:
        yield created


@pytest.fixture
async def sql(platform: Platform) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the database of the platform, as the superuser."""
    async with platform.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def gateway(platform: Platform) -> Iterator[str]:
    """The address of a gateway for this platform."""
    with platform.serve() as url:
        yield url


@dataclass(frozen=True)
class Faults:
    """The fault switches of a gateway."""

    url: str
    key: str

    async def set(self, **switches: Any) -> None:
        """Change switches."""
        await self._request("POST", json=switches)

    async def clear(self) -> None:
        """Switch all faults off."""
        await self._request("DELETE")

    async def _request(self, method: str, **content: Any) -> None:
        async with httpx.AsyncClient(timeout=10) as http:
            headers = {"apikey": self.key}
            answer = await http.request(method, f"{self.url}/_faults", headers=headers, **content)
            assert answer.status_code == 200, answer.text


@pytest.fixture
async def faults(gateway: str, platform: Platform) -> AsyncIterator[Faults]:
    """The fault switches of `gateway`; they are off again after the test."""
    switches = Faults(gateway, platform.settings.secret_key)
    yield switches
    await switches.clear()


def _settings(stack: Any, database: str, storage_dir: Path) -> GatewaySettings:
    return GatewaySettings(
        # No PostgREST listens on this socket. A test that needs one passes another socket.
        postgrest_socket=storage_dir / "postgrest.sock",
        auth_database_url=role_url(stack, "supabase_auth_admin", database),
        realtime_database_url=role_url(stack, "supabase_realtime_admin", database),
        storage_database_url=role_url(stack, "supabase_storage_admin", database),
        jwt_secret=RECORDED.jwt_secret,
        api_url="",
        storage_dir=storage_dir,
        anon_key=RECORDED.anon_key,
        service_role_key=RECORDED.service_role_key,
        publishable_key=RECORDED.publishable_key,
        secret_key=RECORDED.secret_key,
    )
