"""The clients use HTTP/1.1 even with a server that offers HTTP/2, such as Supabase's."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

from picture_queue import AsyncPictureQueue, PictureQueue, _rpc

VERSION = {"version": "1", "contract": _rpc.CONTRACT, "oldest_client_contract": 1}


@pytest.fixture
async def server(tmp_path, monkeypatch):
    """Serve HTTPS; yield the address, and the list of the HTTP versions of the requests."""
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


async def test_concurrent_calls_use_http_1_1(server):
    url, versions = server
    async with AsyncPictureQueue(url, "sb_secret_key") as pq:
        answers = await asyncio.gather(*(pq.version() for _ in range(8)))
    assert {version.contract for version in answers} == {_rpc.CONTRACT}
    assert set(versions) == {"1.1"}


async def test_threads_can_share_a_client(server):
    url, versions = server

    def use(pq: PictureQueue) -> set[int]:
        return {pq.version().contract for _ in range(10)}

    def use_in_threads() -> set[int]:
        with PictureQueue(url, "sb_secret_key") as pq, ThreadPoolExecutor(32) as pool:
            return set().union(*pool.map(use, [pq] * 32))

    assert await asyncio.to_thread(use_in_threads) == {_rpc.CONTRACT}
    assert set(versions) == {"1.1"}
