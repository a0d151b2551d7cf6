"""Calls to a project on loopback do not use the proxy of the environment.

Otherwise the proxy would get the API keys of the project.
"""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from picture_queue import AsyncPictureQueue, PictureQueue
from picture_queue._loopback import direct_mounts
from picture_queue._realtime.subscriptions import Subscriptions
from picture_queue._transport.postgrest import AsyncPostgrest
from picture_queue.installation.checkup import examine_api
from picture_queue.settings import ProjectSettings

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The listening socket of a proxy, which the environment configures for all addresses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name in _VARIABLES:
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.upper(), url)
        listener.setblocking(False)
        yield listener


def assert_unused(proxy: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        proxy.accept()


async def test_the_clients_use_no_proxy_for_loopback(stack: Any, queue: str, proxy: socket.socket):
    async with AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq:
        job = await pq.jobs.enqueue("unknown-type", {}, queue=queue)
        assert (await pq.jobs.get(job.id)).id == job.id
    with PictureQueue(stack.api_url, stack.service_role_key) as sync_client:
        await asyncio.to_thread(sync_client.jobs.get, job.id)
    assert_unused(proxy)


async def test_realtime_uses_no_proxy_for_loopback(stack: Any, proxy: socket.socket):
    joined = asyncio.Event()

    class Listener:
        def joined(self) -> None:
            joined.set()

        def lost(self) -> None: ...
        def message(self, event: str, payload: Any) -> None: ...

    api = AsyncPostgrest(ProjectSettings.resolve(stack.api_url, stack.service_role_key))
    source = Subscriptions(api)
    with source.listen(f"pq:job:{uuid4()}", Listener()):
        await asyncio.wait_for(joined.wait(), 15)
    await source.aclose()
    await api.aclose()
    assert_unused(proxy)


async def test_the_doctor_uses_no_proxy_for_loopback(stack: Any, proxy: socket.socket):
    settings = ProjectSettings.resolve(stack.api_url, stack.service_role_key)
    findings = {finding.check: finding for finding in (await examine_api(settings)).findings}
    assert findings["realtime"].detail == "a private channel was joined"
    assert_unused(proxy)


async def test_other_hosts_are_reached_through_the_proxy(proxy: socket.socket):
    url = "http://project.example.com"
    async with httpx.AsyncClient(mounts=direct_mounts(url)) as http:
        request = asyncio.create_task(http.get(url))
        connection, _ = await asyncio.get_running_loop().sock_accept(proxy)
        request.cancel()
        connection.close()
        await asyncio.gather(request, return_exceptions=True)
