"""A reverse proxy that serves HTTP/2 in front of the embedded gateway, as Supabase does."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config

from picture_queue.local.gateway.upstream import Upstream, UpstreamError

from .loop_thread import LoopThread

#: Headers that belong to one connection, or that the sending server sets itself.
_CONNECTION_HEADERS = {b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"}
#: The proxy reads the whole body, and sets its own Content-Length.
_DROPPED_REQUEST_HEADERS = _CONNECTION_HEADERS | {b"content-length"}


@contextmanager
def h2_front(host: str, port: int) -> Iterator[int]:
    """Serve HTTP/2 without TLS, and HTTP/1.1, for a server that speaks HTTP/1.1 only.

    Args:
        host: The host of the HTTP/1.1 server.
        port: The port of the HTTP/1.1 server.

    Yields:
        The port on 127.0.0.1.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.accesslog = config.errorlog = None
    with LoopThread("h2-front") as thread:
        upstream = Upstream((host, port))
        stop = asyncio.Event()

        async def start() -> "asyncio.Task[None]":
            app: Any = _ForwardingApp(upstream)
            return asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))

        async def end() -> None:
            stop.set()
            await asyncio.wait([serving], timeout=5)
            await upstream.close()

        serving = thread.run(start())
        try:
            yield listener.getsockname()[1]
        finally:
            thread.run(end())
            listener.detach()


def create_tls_context(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Create a certificate for ``localhost`` and a TLS context that serves it.

    Args:
        directory: The directory for the certificate file of the certificate authority.

    Returns:
        A server context that offers HTTP/2 and HTTP/1.1, and the path of the authority's
        certificate file. A client trusts the server if ``SSL_CERT_FILE`` has this path.
    """
    authority, file = trustme.CA(), directory / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context, file


class _ForwardingApp:
    """An ASGI app that forwards requests, but closes all WebSockets, so that workers poll."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        elif scope["type"] == "http":
            try:
                await self._forward(scope, receive, send)
            except (UpstreamError, TimeoutError):
                await send({"type": "http.response.start", "status": 502, "headers": []})
                await send({"type": "http.response.body", "body": b"Bad Gateway"})
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1001})

    async def _forward(self, scope: Any, receive: Any, send: Any) -> None:
        body = b"".join([piece async for piece in _pieces(receive)])
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name not in _DROPPED_REQUEST_HEADERS
        ]
        headers.append((b"content-length", str(len(body)).encode()))
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")

        async def stream_body() -> AsyncIterator[bytes]:
            yield body

        async with self._upstream.exchange() as exchange:
            await exchange.send(scope["method"].encode(), target, headers, stream_body())
            answer = b"".join([piece async for piece in exchange.body()])
            status, received = exchange.status, exchange.headers
        forwarded = [(name, value) for name, value in received if name not in _CONNECTION_HEADERS]
        await send({"type": "http.response.start", "status": status, "headers": forwarded})
        await send({"type": "http.response.body", "body": answer})


async def _pieces(receive: Any) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message.get("body", b"")
        more = message.get("more_body", False)
