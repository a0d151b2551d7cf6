"""Calls take HTTP/2 where a server offers it, as the platform does."""

import asyncio
import json
import socket

import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

from picture_queue import _rpc
from picture_queue._transport.postgrest import AsyncPostgrest
from picture_queue.settings import ProjectSettings

VERSION = {"version": "1", "contract": _rpc.CONTRACT, "oldest_client_contract": 1}


@pytest.fixture
async def seen(tmp_path, monkeypatch):
    """Serves over TLS; gives its address, and the HTTP version of each request."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    versions = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            versions.append(scope["http_version"])
            while (await receive()).get("more_body"):
                pass
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(VERSION).encode()})
        else:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.certfile = config.keyfile = str(tmp_path / "server.pem")
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    yield f"https://localhost:{listener.getsockname()[1]}", versions
    stop.set()
    await asyncio.wait([serving], timeout=10)
    listener.detach()


async def test_calls_take_http2(seen):
    url, versions = seen
    way = AsyncPostgrest(ProjectSettings(url, "sb_secret_key"))
    try:
        found = await asyncio.gather(*(way.call(_rpc.picture_queue_version()) for _ in range(8)))
    finally:
        await way.aclose()
    assert {each.contract for each in found} == {_rpc.CONTRACT}
    assert versions == ["2"] * 8
