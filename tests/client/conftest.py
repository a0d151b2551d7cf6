"""Two signed-up users, and a proxy that can stop forwarding."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import httpx
import pytest
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from picture_queue import AsyncPictureQueue
from picture_queue._realtime import follow


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


class TopicProbe:
    """A second listener on the topic of a watch. It records when the topic is joined and lost.

    Args:
        has_read: The event that is set when the watch has read the row after the join.
    """

    def __init__(self, has_read):
        self._joined, self._lost, self._has_read = asyncio.Event(), asyncio.Event(), has_read

    def joined(self):
        self._lost.clear()
        self._joined.set()

    def lost(self):
        self._joined.clear()
        self._has_read.clear()
        self._lost.set()

    def message(self, event, payload):
        pass

    async def until_joined(self):
        await asyncio.wait_for(self._joined.wait(), 15)
        await asyncio.wait_for(self._has_read.wait(), 15)

    async def until_lost(self):
        await asyncio.wait_for(self._lost.wait(), 15)


@pytest.fixture
def wait_until_joined(monkeypatch):
    """Return a function that waits until a watch has joined its topic and read the row.

    Changes after that arrive as events. The function returns a `TopicProbe`, which listens until
    the test ends.
    """
    has_read = asyncio.Event()
    read = follow._JobFollower._read

    async def read_and_signal(self, job_id, reason, extra=0.0):
        event = await read(self, job_id, reason, extra)
        if reason == "snapshot":
            has_read.set()
        return event

    monkeypatch.setattr(follow._JobFollower, "_read", read_and_signal)
    with contextlib.ExitStack() as listening:

        async def join(pq, topic):
            probe = TopicProbe(has_read)
            listening.enter_context(pq._watcher.subscriptions.listen(topic, probe))
            await probe.until_joined()
            return probe

        yield join


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
