"""Limits that protect the HTTP servers of the embedded stack from slow or malicious clients."""

import asyncio
import contextlib
import logging
import math
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from picture_queue import _http_protocol
from picture_queue.local import ports, servers

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = GET.replace(b"/", b"/large", 1)
UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _answer(_: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


async def _large(_: Request) -> PlainTextResponse:
    return PlainTextResponse("a" * 10_000_000)


async def _echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a server with a short answer, a large answer, and a WebSocket that echoes."""
    app = Starlette(
        routes=[Route("/", _answer), Route("/large", _large), WebSocketRoute("/echo", _echo)]
    )
    listeners = ports.listen(0)
    server = servers._AppServer("test", app, listeners)
    await server.start()
    yield ports.port_of(listeners)
    await server.stop()
    for listener in listeners:
        listener.close()


@pytest.fixture
def short_head_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_protocol, "_HEAD_TIMEOUT", 0.1)


async def _open(port: int) -> Stream:
    return await asyncio.open_connection(ports.HOST, port)


async def _read_answer(stream: Stream) -> bytes:
    async with asyncio.timeout(30):
        return await stream[0].readuntil(b"done")


async def _expect_closed(stream: Stream) -> None:
    reader, writer = stream
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


@pytest.mark.usefixtures("short_head_timeout")
@pytest.mark.parametrize("sent", [b"", GET[:-2]])
async def test_a_connection_without_a_complete_head_is_closed(port: int, sent: bytes) -> None:
    stream = await _open(port)
    stream[1].write(sent)
    await _expect_closed(stream)


@pytest.mark.usefixtures("short_head_timeout")
@pytest.mark.parametrize("sent", [b"\r\n", GET[:-2]])
async def test_a_second_request_without_a_complete_head_is_closed(port: int, sent: bytes) -> None:
    """One case sends an empty line, which ends uvicorn's own timeout for an idle connection."""
    stream = await _open(port)
    stream[1].write(GET)
    await _read_answer(stream)
    stream[1].write(sent)
    await _expect_closed(stream)


@pytest.mark.parametrize(
    "head",
    [
        UPGRADE.replace(b"/echo", b"/" + b"a" * 9000),  # a page in Chromium can send such a line
        UPGRADE.replace(b"GET", b"POST"),
        UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n"),
        UPGRADE.replace(b"\r\n\r\n", b"\r\n" + b"a: b\r\n" * 200 + b"\r\n"),
    ],
    ids=["long line", "POST", "body", "many headers"],
)
async def test_a_malformed_websocket_handshake_is_refused(port: int, head: bytes) -> None:
    reader, writer = await _open(port)
    writer.write(head)
    async with asyncio.timeout(30):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (b"GET /", b"a" * 10_000),
        (GET[:-2] + b"a: ", b"a" * 10_000),
        (GET[:-2], b"a: b\r\n" * 1000),
        (GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 1000),
        (GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 10_000),
    ],
    ids=["path", "value", "headers", "trailers", "chunk extension"],
)
async def test_an_endless_head_is_refused(port: int, start: bytes, repeated: bytes) -> None:
    """The server refuses the request although its head never ends."""
    reader, writer = await _open(port)
    writer.write(start)
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            writer.write(repeated)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(30):
            assert b" 400 " in await reader.read()
    writer.close()


async def test_a_long_body_is_accepted(port: int) -> None:
    """The chunks and chunk headers of the body are longer in total than a head may be."""
    stream = await _open(port)
    stream[1].write(GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(20):
        stream[1].write(b"1\r\na\r\n" * 1000)
        await stream[1].drain()
    stream[1].write(b"0\r\n\r\n" + GET)
    assert (await _read_answer(stream)).endswith(b"done")
    assert (await _read_answer(stream)).endswith(b"done")
    stream[1].close()


async def test_many_pipelined_requests_close_the_connection(port: int) -> None:
    reader, writer = await _open(port)
    writer.write(GET * 10_000)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(30):
            assert (await reader.read()).count(b"done") < 1000
    writer.close()


async def test_a_client_that_reads_no_answer_is_disconnected(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http_protocol, "_WRITE_TIMEOUT", 0.1)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, (ports.HOST, port))
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(60):
                while True:
                    await loop.sock_sendall(client, LARGE)


async def test_a_client_that_reads_slowly_is_not_disconnected(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read a 30th of the answer, then call the check that a timer would call after the timeout."""
    paused: asyncio.Queue[_http_protocol.BoundedHttpProtocol] = asyncio.Queue()

    def pause_writing(self: _http_protocol.BoundedHttpProtocol) -> None:
        _http_protocol.SlowClientCheck.pause_writing(self)
        paused.put_nowait(self)

    monkeypatch.setattr(_http_protocol, "_WRITE_TIMEOUT", 3600.0)
    monkeypatch.setattr(_http_protocol.BoundedHttpProtocol, "pause_writing", pause_writing)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, (ports.HOST, port))
        await loop.sock_sendall(client, LARGE)
        async with asyncio.timeout(60):
            protocol = await paused.get()
            unread = protocol.transport.get_write_buffer_size()
            received = 0  # bytes
            while received < 300_000:
                received += len(await loop.sock_recv(client, 4096))
            while protocol.transport.get_write_buffer_size() >= unread:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        protocol._check_progress(unread)
        assert not protocol.transport.is_closing()
        # Without progress since the last check, the client is disconnected.
        protocol._check_progress(protocol.transport.get_write_buffer_size())
        assert protocol.transport.is_closing()


async def test_a_websocket_that_sends_pings_and_reads_no_pong_is_closed(port: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, (ports.HOST, port))
        await loop.sock_sendall(client, UPGRADE)
        assert b" 101 " in await loop.sock_recv(client, 4096)
        pings = (b"\x89\xfd\0\0\0\0" + b"a" * 125) * 1000
        with pytest.raises(ConnectionError):
            for _ in range(1000):  # 131 MB
                await loop.sock_sendall(client, pings)


async def test_a_websocket_message_of_very_many_fragments_is_refused(port: int) -> None:
    """The fragments are empty, so a limit on bytes does not apply."""
    reader, writer = await _open(port)
    writer.write(UPGRADE)
    async with asyncio.timeout(60):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 100_000)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        # This fragment ends the message. Without a limit, the server would answer the message.
        writer.write(b"\x80\x80\0\0\0\0")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


@pytest.mark.usefixtures("short_head_timeout")
async def test_a_websocket_has_no_timeout_for_its_head(port: int) -> None:
    reader, writer = await _open(port)
    writer.write(UPGRADE)
    async with asyncio.timeout(30):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        # Wait until a later connection has timed out. The WebSocket would have timed out before.
        await _expect_closed(await _open(port))
        writer.write(b"\x81\x82\0\0\0\0hi")  # a text frame, masked with zeros
        assert await reader.readexactly(4) == b"\x81\x02hi"
    writer.close()


async def test_a_connection_beyond_the_limit_is_closed_and_logged_once(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Let two connections fit below the limit. Each needs two descriptors, since the client is in
    # this process too. Free numbers need not be consecutive, so find the fifth free number.
    free_numbers = [os.dup(0) for _ in range(5)]
    for descriptor in free_numbers:
        os.close(descriptor)
    monkeypatch.setattr(_http_protocol, "_DESCRIPTOR_LIMIT", free_numbers[-1])
    monkeypatch.setattr(_http_protocol.BoundedHttpProtocol, "_warned_at", float("-inf"))
    caplog.set_level(logging.WARNING, _http_protocol.__name__)
    accepted = [await _open(port) for _ in range(2)]
    try:
        for stream in accepted:
            stream[1].write(GET)
            await _read_answer(stream)
        for _ in range(2):
            await _expect_closed(await _open(port))
    finally:
        for _, writer in accepted:
            writer.close()
            await writer.wait_closed()
    assert len(caplog.records) == 1 and "closing new connections" in caplog.text


def test_the_daemon_raises_a_low_limit_of_open_files() -> None:
    """The default limit of macOS is 256, which the connections of one page can reach."""
    program = """if True:
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        from picture_queue.local import daemon
        daemon._raise_file_limit()
        from picture_queue import _http_protocol
        print(_http_protocol._DESCRIPTOR_LIMIT, hard)
    """
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    limit, hard = map(int, output.split())
    assert limit == (3072 if hard == resource.RLIM_INFINITY else min(4096, hard) * 3 // 4)


def test_without_a_limit_of_open_files_no_connection_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert _http_protocol._max_descriptors() == math.inf
