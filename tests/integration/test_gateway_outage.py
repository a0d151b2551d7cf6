"""Outages: each service reports that the database or PostgREST is unreachable, and recovers."""

import asyncio
import contextlib
from dataclasses import asdict
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

from picture_queue.local.gateway.realtime import socket


class DatabaseProxy:
    """A proxy to the database, whose connections a test can cut and restore."""

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0

    def address_of(self, dsn: str) -> str:
        """Return the address of the database through the proxy."""
        parts = urlsplit(dsn)
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self._port}"
        return parts._replace(netloc=netloc, query="").geturl()

    async def restore(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The DSN has the directory of the Unix socket in `host`.
        parameters = dict(parse_qsl(self._target.query))
        path = f"{parameters['host']}/.s.PGSQL.{parameters['port']}"
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        self._writers |= {writer, server_writer}
        await asyncio.gather(_copy(reader, server_writer), _copy(server_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.transport.abort()


@pytest.fixture
async def proxy(platform):
    proxy = DatabaseProxy(platform.superuser_url)
    await proxy.restore()
    yield proxy
    await proxy.cut()


async def test_each_service_reports_an_outage_of_the_database(proxy, platform, monkeypatch):
    monkeypatch.setattr(socket, "_LISTENER_TIMEOUT", 0.2)
    key = platform.settings.service_role_key
    headers = {"Authorization": f"Bearer {key}"}
    settings = asdict(platform.settings)
    urls = [name for name in settings if name.endswith("_database_url")]
    assert len(urls) == 3
    serving = platform.serve(**{name: proxy.address_of(settings[name]) for name in urls})
    url = await asyncio.to_thread(serving.__enter__)
    realtime = AsyncRealtimeClient(f"{url}/realtime/v1", key)
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as api:
            assert (await api.get("/storage/v1/bucket")).status_code == 200
            await proxy.cut()
            answer = await api.get("/storage/v1/bucket")
            assert (answer.status_code, answer.json()["error"]) == (503, "DatabaseError")
            answer = await api.post(
                "/auth/v1/token?grant_type=password", json={"email": "a@b.co", "password": "x"}
            )
            assert (answer.status_code, answer.json()["error_code"]) == (503, "unexpected_failure")
            states = asyncio.Queue()
            await realtime.channel("room").subscribe(lambda *state: states.put_nowait(state))
            assert "UnableToConnectToProject" in str((await states.get())[1])
            await proxy.restore()
            # The client repeats the join until it succeeds.
            async with asyncio.timeout(20):
                while (await states.get())[0] != RealtimeSubscribeStates.SUBSCRIBED:
                    pass
            assert (await api.get("/storage/v1/bucket")).status_code == 200
    finally:
        await realtime.close()
        await asyncio.to_thread(serving.__exit__, None, None, None)


async def test_rest_reports_an_outage_of_postgrest(gateway, platform):
    headers = {"apikey": platform.settings.secret_key}
    async with httpx.AsyncClient(headers=headers) as http:
        answer = await http.post(f"{gateway}/rest/v1/rpc/anything", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "PGRST000")
