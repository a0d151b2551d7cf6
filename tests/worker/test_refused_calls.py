"""A worker whose API refuses all calls for a while: a rate limit, or a rotated key."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from picture_queue import AsyncPictureQueue, Worker, WorkerSettings
from picture_queue.worker import _calls

from ..signals import watch


class Gateway:
    """A gateway that forwards calls to the API, or answers all calls with `refusal` if it is set.

    `refused` has the paths of the refused calls.
    """

    def __init__(self, url: str) -> None:
        self.url = ""
        self.refusal: Response | None = None
        self.refused: list[str] = []
        self._http = httpx.AsyncClient(base_url=url, timeout=30)

    async def answer(self, request: Request) -> Response:
        if self.refusal is not None:
            self.refused.append(request.url.path)
            return self.refusal
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in ("host", "content-length")
        }
        response = await self._http.request(
            request.method, request.url.path, content=await request.body(), headers=headers
        )
        content_type = response.headers.get("content-type", "application/json")
        return Response(response.content, response.status_code, media_type=content_type)

    async def aclose(self) -> None:
        await self._http.aclose()


@pytest.fixture
async def gateway(stack: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(stack.api_url)
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    app: Any = Starlette(routes=[Route("/{path:path}", gateway.answer, methods=["GET", "POST"])])
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    gateway.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield gateway
    stop.set()
    await asyncio.wait([serving], timeout=10)
    listener.detach()
    await gateway.aclose()


@pytest.fixture
async def worker(stack: Any, gateway: Gateway, queue: str) -> AsyncIterator[Worker]:
    """A worker that uses the gateway, polls quickly and has started."""
    async with AsyncPictureQueue(gateway.url, stack.service_role_key) as pq:
        settings = WorkerSettings(queues=(queue,), poll_interval=0.05, shutdown_grace=0)
        worker = Worker(pq, settings)
        watch(worker)

        @worker.handler("fine")
        async def fine() -> int:
            return 1

        async with worker:
            await worker._signals.idle.next()
            yield worker


async def test_the_whole_worker_sends_nothing_until_retry_after_has_passed(
    service, queue, gateway, worker, until
):
    retry_after = 4.0
    gateway.refusal = Response("slow down", 429, headers={"Retry-After": f"{retry_after:g}"})
    began = time.monotonic()
    await until(lambda: gateway.refused)
    job = await service.jobs.enqueue("fine", queue=queue)
    await asyncio.sleep(retry_after - (time.monotonic() - began) - 0.5)
    # Only the calls in progress and the first call of each kind are sent.
    assert len([path for path in gateway.refused if "/rpc/" in path]) <= 3
    gateway.refusal = None
    assert await service.jobs.result(job.id, timeout=30) == 1


async def test_a_refused_key_is_logged_at_intervals_until_it_is_accepted(
    service, queue, gateway, worker, until, caplog, monkeypatch
):
    monkeypatch.setattr(_calls, "_FAULT_LOG_INTERVAL", 0.2)
    assert worker.is_ready

    def logged_errors() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelname == "ERROR"
            and "refuses all calls of the worker" in record.getMessage()
        ]

    gateway.refusal = Response('{"message": "Invalid API key"}', 401, media_type="application/json")
    await until(lambda: len(logged_errors()) >= 2)
    assert not worker.is_ready
    assert "refused the key" in logged_errors()[0]
    gateway.refusal = None
    job = await service.jobs.enqueue("fine", queue=queue)
    assert await service.jobs.result(job.id, timeout=30) == 1
    await until(lambda: worker.is_ready)
