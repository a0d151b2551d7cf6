"""Two signed-up users, and a proxy that can stop forwarding."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import httpx
import pytest
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from picture_queue import AsyncPictureQueue


@dataclass(frozen=True)
class SignedUpUser:
    """A signed-up user with a Supabase client and a client of this library."""

    id: UUID
    token: str
    supabase: AsyncClient
    pq: AsyncPictureQueue


async def _sign_up(stack: Any) -> AsyncIterator[SignedUpUser]:
    async with httpx.AsyncClient(timeout=30) as http:
        options = AsyncClientOptions(
            auto_refresh_token=False, persist_session=False, httpx_client=http
        )
        client = await acreate_client(stack.api_url, stack.anon_key, options=options)
        answer = await client.auth.sign_up(
            {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
        )
        assert answer.session and answer.user
        token = answer.session.access_token
        async with AsyncPictureQueue(stack.api_url, stack.anon_key, access_token=token) as pq:
            yield SignedUpUser(UUID(answer.user.id), token, client, pq)
        await client.realtime.close()


@pytest.fixture
async def ada(stack: Any) -> AsyncIterator[SignedUpUser]:
    """A user."""
    async for user in _sign_up(stack):
        yield user


@pytest.fixture
async def bob(stack: Any) -> AsyncIterator[SignedUpUser]:
    """Another user."""
    async for user in _sign_up(stack):
        yield user


class StallingProxy:
    """A TCP proxy that can stop forwarding: connections stay open, but no more data passes.

    Args:
        host: The host of the server.
        port: The port of the server.

    Attributes:
        connections: The number of open connections of clients.
    """

    def __init__(self, host: str, port: int) -> None:
        self.connections = 0
        self.port = 0
        self._server = (host, port)
        self._forwards = True
        self._listener: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    def stop_forwarding(self) -> None:
        self._forwards = False

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1")
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection(*self._server)
        self._writers += [writer, to_upstream]
        both_directions = (self._forward(reader, to_upstream), self._forward(upstream, writer))
        self.connections += 1
        await asyncio.gather(*both_directions, return_exceptions=True)
        self.connections -= 1

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if self._forwards:
                sink.write(data)
        sink.close()


@pytest.fixture
async def start_proxy() -> AsyncIterator[Callable[[str], Any]]:
    """Return a function that starts a `StallingProxy` for a URL; it returns the proxy and its URL.

    The proxies stop at the end of the test.
    """
    proxies: list[StallingProxy] = []

    async def start(url: str) -> tuple[StallingProxy, str]:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        proxy = StallingProxy(parts.hostname, parts.port)
        await proxy.start()
        proxies.append(proxy)
        netloc = parts.netloc.replace(f":{parts.port}", f":{proxy.port}")
        return proxy, urlunsplit(parts._replace(netloc=netloc))

    yield start
    for proxy in proxies:
        await proxy.stop()
