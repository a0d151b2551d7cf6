"""The gateway's HTTP client for PostgREST, with servers that send scripted, partly bad, answers."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import httpx
import pytest

from picture_queue.local.gateway import upstream
from picture_queue.local.gateway.upstream import Upstream, UpstreamError


@contextlib.asynccontextmanager
async def scripted_server(*answers: bytes, hang: bool = False):
    """Serve these responses in turn; yield a client of the server, and the received requests.

    Each connection starts with the first response. After the last response, the server closes the
    connection; with `hang`, the connection stays open and silent.
    """
    requests: list[bytes] = []
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            for answer in answers:
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
            if hang:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "socket"
        server = await asyncio.start_unix_server(serve, socket)
        client = Upstream(socket)
        try:
            yield client, requests
        finally:
            await client.close()
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def no_body():
    yield b""


async def send_request(client, method=b"GET"):
    async with client.exchange() as exchange:
        await exchange.send(method, b"/", [(b"host", b"x")], no_body())
        return exchange.status, b"".join([piece async for piece in exchange.body()])


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_one_connection_serves_many_requests():
    async with scripted_server(OK, OK, OK, hang=True) as (client, requests):
        for _ in range(3):
            assert await send_request(client) == (200, b"ok")
        assert len(client._idle) == 1
    assert len(requests) == 3


async def test_a_connection_closed_while_idle_is_not_reused():
    async with scripted_server(OK) as (client, requests):
        assert await send_request(client) == (200, b"ok")
        (idle,) = client._idle
        # Wait until the client has noticed that the server closed the connection.
        with contextlib.suppress(UpstreamError):
            async with asyncio.timeout(5):
                await idle._wait()
        assert await send_request(client) == (200, b"ok")
    assert len(requests) == 2


async def test_a_connection_that_was_idle_for_long_is_not_reused(monkeypatch):
    monkeypatch.setattr(upstream, "_IDLE_TIMEOUT", 0.0)
    async with scripted_server(OK, hang=True) as (client, requests):
        assert await send_request(client) == (200, b"ok")
        assert await send_request(client) == (200, b"ok")
    assert len(requests) == 2


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", b"nonsense\r\n\r\n"],
    ids=["missing", "cut short", "malformed"],
)
async def test_a_missing_incomplete_or_malformed_response_is_an_error(answer):
    async with scripted_server(answer) as (client, _):
        with pytest.raises(UpstreamError):
            await send_request(client)
        assert client._idle == []


async def test_a_socket_without_a_listener_is_an_error():
    async with scripted_server() as (client, _):
        pass
    with pytest.raises(UpstreamError, match="cannot be reached"):
        await send_request(client)


async def test_a_server_that_never_responds_causes_a_timeout(monkeypatch):
    monkeypatch.setattr(upstream, "ANSWER_TIMEOUT", 0.1)
    async with scripted_server(b"", hang=True) as (client, _):
        with pytest.raises(TimeoutError):
            await send_request(client)


async def test_a_connection_is_reused_after_a_head_request():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with scripted_server(head, OK, hang=True) as (client, _):
        assert await send_request(client, b"HEAD") == (200, b"")
        assert await send_request(client) == (200, b"ok")
        assert len(client._idle) == 1


async def test_a_connection_is_not_reused_if_the_server_closes_it():
    answer = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with scripted_server(answer, hang=True) as (client, _):
        assert await send_request(client) == (200, b"ok")
        assert client._idle == []


async def test_a_large_response_is_not_buffered_whole():
    size = 20_000_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    async with (
        scripted_server(head + bytes(size), hang=True) as (client, _),
        client.exchange() as exchange,
    ):
        await exchange.send(b"GET", b"/", [(b"host", b"x")], no_body())
        received, largest_piece = 0, 0
        async for piece in exchange.body():
            received += len(piece)
            largest_piece = max(largest_piece, len(piece))
            await asyncio.sleep(0)
    assert received == size
    assert largest_piece < 2 * upstream._BUFFER


@contextlib.asynccontextmanager
async def client_of_gateway(platform, *answers, **options):
    """Yield an HTTP client of a gateway whose PostgREST returns these responses."""
    async with scripted_server(*answers, **options) as (client, requests):
        with platform.serve(postgrest_socket=client._address) as url:
            headers = {"apikey": platform.settings.secret_key}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
                yield http, requests


async def test_the_proxy_replaces_the_key_and_keeps_other_headers(platform):
    answer = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: 0-0/*\r\nKeep-Alive: timeout=5\r\n"
        b"Server: postgrest/12\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
    )
    async with client_of_gateway(platform, answer, hang=True) as (http, requests):
        headers = {"TE": "trailers", "Prefer": "count=exact", "Accept-Profile": "public"}
        response = await http.get("/rest/v1/t?select=a%2Cb&x=eq.%C3%BC", headers=headers)
    assert (response.status_code, response.json()) == (206, [])
    assert response.headers["content-range"] == "0-0/*"
    assert "keep-alive" not in response.headers
    line, *sent = requests[0].decode().lower().split("\r\n")
    assert line == "get /t?select=a%2cb&x=eq.%c3%bc http/1.1"
    names = {header.partition(":")[0] for header in sent if header}
    assert {"prefer", "accept-profile", "authorization"} <= names
    assert names.isdisjoint({"te", "connection", "apikey"})
    assert f"authorization: bearer {platform.settings.service_role_key.lower()}" in sent


async def test_a_key_in_the_query_is_replaced_and_not_forwarded(platform):
    async with client_of_gateway(platform, OK, OK, hang=True) as (http, requests):
        del http.headers["apikey"]
        key = platform.settings.secret_key
        for query in (f"apikey={key}", f"select=a&%61pikey={key}&n=eq.1"):
            assert (await http.get(f"/rest/v1/t?{query}")).text == "ok"
    first, second = (request.decode().lower() for request in requests)
    assert first.startswith("get /t http/1.1\r\n")
    assert second.startswith("get /t?select=a&n=eq.1 http/1.1\r\n")
    for sent in (first, second):
        assert f"authorization: bearer {platform.settings.service_role_key.lower()}" in sent
        assert key.lower() not in sent


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [(b"", 503, "PGRST000"), (b"nonsense\r\n\r\n", 503, "PGRST000")],
)
async def test_the_proxy_reports_a_missing_or_malformed_response(platform, answer, status, code):
    async with client_of_gateway(platform, answer) as (http, _):
        response = await http.post("/rest/v1/rpc/f", json={})
        assert (response.status_code, response.json()["code"]) == (status, code)


async def test_the_proxy_answers_504_if_postgrest_does_not_answer_in_time(platform, monkeypatch):
    monkeypatch.setattr(upstream, "ANSWER_TIMEOUT", 0.1)
    async with client_of_gateway(platform, b"", hang=True) as (http, _):
        response = await http.post("/rest/v1/rpc/f", json={})
        assert (response.status_code, response.json()["code"]) == (504, "PGRST003")


async def test_the_proxy_breaks_off_an_incomplete_response(platform):
    incomplete = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(200_000)
    async with client_of_gateway(platform, incomplete) as (http, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/rest/v1/t")


async def test_a_client_that_disconnects_does_not_block_others(platform):
    async with client_of_gateway(platform, OK, OK, hang=True) as (http, _):
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        key = platform.settings.secret_key
        writer.write(
            f"POST /rest/v1/t HTTP/1.1\r\nHost: localhost\r\napikey: {key}\r\n"
            "Content-Length: 10\r\n\r\nhalf".encode()
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        assert (await http.get("/rest/v1/t")).text == "ok"


async def test_a_request_without_its_body_gets_400_and_its_connection_is_not_reused(platform):
    # The HTTP server of the gateway drops the body of a request with an `Upgrade` header.
    # PostgREST answers some requests before it reads their body. If the gateway reused such a
    # connection, PostgREST would read the missing bytes from the request of another client.
    async with client_of_gateway(platform, OK, hang=True) as (http, requests):
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        key = platform.settings.publishable_key
        writer.write(
            f"POST /rest/v1/first HTTP/1.1\r\nHost: localhost\r\napikey: {key}\r\n"
            "Connection: upgrade\r\nUpgrade: other\r\nContent-Length: 10\r\n\r\n0123456789".encode()
        )
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert (await http.get("/rest/v1/second")).text == "ok"
    assert b"/second" in requests[-1].splitlines()[0]
