"""The HTTP client whose requests wait for a connection outside of httpcore."""

import asyncio
import contextlib

import httpx
import pytest

from picture_queue._http import AsyncHttpClient

_REQUESTS = 100  # more than the client has connections


class Server:
    """An HTTP server that answers when the test lets it."""

    def __init__(self):
        self.may_answer = asyncio.Event()
        self.open = self.most = 0
        self.connections = set()

    async def handle(self, reader, writer):
        self.connections.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while await reader.readline():
                while (await reader.readline()).strip():
                    pass
                self.open += 1
                self.most = max(self.most, self.open)
                await self.may_answer.wait()
                self.open -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving():
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with AsyncHttpClient(trust_env=False) as http:
        yield server, http, f"http://127.0.0.1:{port}"
    server.may_answer.set()
    await asyncio.gather(*server.connections)
    listener.close()
    await listener.wait_closed()


async def test_waiting_requests_do_not_reach_the_pool_of_httpcore():
    async with serving() as (server, http, url), asyncio.timeout(60):
        sent = [asyncio.create_task(http.get(url, timeout=30)) for _ in range(_REQUESTS)]
        while server.open < 32:  # noqa: ASYNC110 - the server has no signal for it
            await asyncio.sleep(0.01)
        assert len(http._transport._pool._requests) == 32
        server.may_answer.set()
        answers = await asyncio.gather(*sent)
        assert [answer.text for answer in answers] == ["ok"] * _REQUESTS
        assert server.most == 32


async def test_a_request_that_gets_no_connection_raises_a_pool_timeout():
    async with serving() as (server, http, url), asyncio.timeout(60):
        sent = [asyncio.create_task(http.get(url, timeout=30)) for _ in range(32)]
        while server.open < 32:  # noqa: ASYNC110 - the server has no signal for it
            await asyncio.sleep(0.01)
        with pytest.raises(httpx.PoolTimeout):
            await http.get(url, timeout=httpx.Timeout(30, pool=0.01))
        server.may_answer.set()
        await asyncio.gather(*sent)


async def test_failed_cancelled_and_unread_requests_free_their_connection():
    async with serving() as (server, http, url), asyncio.timeout(60):
        for _ in range(33):
            with pytest.raises(httpx.ConnectError):
                await http.get("http://127.0.0.1:1")
            task = asyncio.create_task(http.get(url))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        server.may_answer.set()
        for _ in range(33):
            async with http.stream("GET", url):
                pass
        assert (await http.get(url, timeout=httpx.Timeout(30, pool=0.01))).text == "ok"
