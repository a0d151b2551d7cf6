"""The faults of the test proxy, for each protocol."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from .h2_front import create_tls_context, h2_front
from .protocols import Answer
from .proxy import Proxy

SHORT_TIMEOUT = 0.5  # seconds, for a call that gets no answer


@pytest.fixture(params=["http", "h2"])
def web(request, stack, tmp_path) -> Iterator[tuple[Proxy, Any]]:
    """A proxy in front of the gateway, and a function that creates a client for it."""
    api = urlsplit(stack.api_url)
    headers = {"apikey": stack.service_role_key}
    if request.param == "http":
        with Proxy(api.hostname, api.port, "http") as proxy:
            yield (
                proxy,
                lambda: httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{proxy.port}", headers=headers, timeout=10
                ),
            )
        return
    context, authority = create_tls_context(tmp_path)
    trusted = ssl.create_default_context(cafile=authority)
    with (
        h2_front(api.hostname, api.port) as front,
        Proxy("127.0.0.1", front, "h2", context) as proxy,
    ):
        yield (
            proxy,
            lambda: httpx.AsyncClient(
                base_url=f"https://localhost:{proxy.port}",
                headers=headers,
                timeout=10,
                http2=True,
                verify=trusted,
            ),
        )


@pytest.fixture
async def client(web) -> AsyncIterator[httpx.AsyncClient]:
    async with web[1]() as client:
        assert (await call_version(client)).status_code == 200
        yield client


@pytest.fixture
def proxy(web) -> Proxy:
    return web[0]


async def call_version(client: httpx.AsyncClient, timeout: float = 10) -> httpx.Response:
    return await client.post("/rest/v1/rpc/picture_queue_version", json={}, timeout=timeout)


async def test_the_proxy_uses_the_named_protocol(client, proxy):
    version = {"http": "HTTP/1.1", "h2": "HTTP/2"}[proxy.protocol]
    answers = await asyncio.gather(*(call_version(client) for _ in range(20)))
    assert {answer.http_version for answer in answers} == {version}


@pytest.mark.parametrize("fault", ["black_hole", "half_open"])
async def test_after_heal_existing_connections_drop_data_and_new_ones_work(
    web, client, proxy, fault
):
    async with web[1]() as idle:
        assert (await call_version(idle)).status_code == 200
        getattr(proxy, fault)()
        with pytest.raises(httpx.ReadTimeout):
            await call_version(client, SHORT_TIMEOUT)
        proxy.heal()
        # `client` may connect again after its timeout, but `idle` still has its old connection.
        with pytest.raises(httpx.ReadTimeout):
            await call_version(idle, SHORT_TIMEOUT)
    async with web[1]() as new:
        assert (await call_version(new)).status_code == 200


async def test_a_black_hole_with_new_also_drops_data_of_new_connections(web, proxy):
    proxy.black_hole(new=True)
    async with web[1]() as new:
        with pytest.raises(httpx.TimeoutException):
            await call_version(new, SHORT_TIMEOUT)
    proxy.heal()
    async with web[1]() as new:
        assert (await call_version(new)).status_code == 200


async def test_stalled_data_is_delivered_after_heal(client, proxy):
    proxy.stall()
    call = asyncio.create_task(call_version(client))
    await asyncio.wait({call}, timeout=SHORT_TIMEOUT)
    assert not call.done()
    proxy.heal()
    assert (await call).status_code == 200


async def test_delayed_data_is_delivered_late(client, proxy):
    proxy.delay(0.2)
    with pytest.raises(httpx.ReadTimeout):
        await call_version(client, 0.1)
    started = time.monotonic()
    assert (await call_version(client)).status_code == 200
    assert time.monotonic() - started > 2 * 0.2, "request and answer are delayed"


async def test_new_connections_are_refused_and_existing_ones_continue(web, client, proxy):
    proxy.refuse()
    assert (await call_version(client)).status_code == 200
    async with web[1]() as new:
        with pytest.raises(httpx.ConnectError):
            await call_version(new)
    proxy.heal()
    async with web[1]() as new:
        assert (await call_version(new)).status_code == 200


async def test_a_reset_fails_the_running_call_and_not_the_next(client, proxy):
    proxy.stall()
    call = asyncio.create_task(call_version(client))
    await asyncio.wait({call}, timeout=SHORT_TIMEOUT)
    proxy.reset()
    proxy.heal()
    with pytest.raises(httpx.TransportError):
        await call
    assert (await call_version(client)).status_code == 200


@pytest.mark.parametrize("fault", ["lose_answers", "garble_answers"])
async def test_responses_are_lost_after_the_call_was_executed(client, proxy, db, queue, fault):
    getattr(proxy, fault)(2)
    for n in (1, 2):
        with pytest.raises(httpx.TransportError):
            await client.post("/rest/v1/rpc/enqueue_job", json={"job_type": "x", "queue": queue})
        assert await db.fetchval("select count(*) from job_queue where queue = $1", queue) == n
    assert proxy.lost == 2
    assert (await call_version(client)).status_code == 200


async def test_the_proxy_answers_a_number_of_requests_itself(stack):
    api = urlsplit(stack.api_url)
    with Proxy(api.hostname, api.port, "http") as proxy:
        proxy.answer(Answer(429, b"{}", (("retry-after", "7"),), count=2))
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{proxy.port}",
            headers={"apikey": stack.service_role_key},
        ) as client:
            answers = [await call_version(client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert proxy.answered == 2


# Postgres


@pytest.fixture
async def postgres(stack) -> AsyncIterator[tuple[Proxy, Any]]:
    database = urlsplit(stack.db_url)
    with Proxy(database.hostname, database.port, "postgres") as proxy:
        netloc = f"{database.username}:{database.password}@127.0.0.1:{proxy.port}"
        dsn = database._replace(netloc=netloc).geturl()
        connection = await asyncpg.connect(dsn, timeout=10)
        yield proxy, connection
        connection.terminate()


async def test_a_half_open_connection_to_postgres_gives_no_answer(postgres):
    proxy, connection = postgres
    assert await connection.fetchval("select 1") == 1
    proxy.half_open()
    with pytest.raises(TimeoutError):
        await connection.fetchval("select 1", timeout=SHORT_TIMEOUT)


async def test_a_response_of_postgres_is_lost_after_the_commit(postgres, db, queue):
    proxy, connection = postgres
    proxy.lose_answers()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.execute(
            f"select enqueue_job('x', queue => '{queue}'), repeat('x', 1000000)"
        )
    assert await db.fetchval("select count(*) from job_queue where queue = $1", queue) == 1
    assert proxy.lost == 1
