"""Webhooks while senders that are not authenticated hold the memory of the app."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn

from picture_queue import AsyncPictureQueue
from picture_queue.web import create_app, webhooks
from tests.web.test_app import FORGED, SETTINGS, delivery, park_predictions

MAX_TOTAL_BYTES = 1024 * 1024
PART = 64 * 1024  # bytes that a sender sends before it stops
SENDERS = 40


@pytest.fixture
async def address(
    service: AsyncPictureQueue, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, int]]:
    """The address of an app with a small limit of memory."""
    monkeypatch.setattr(webhooks, "_MAX_TOTAL_BYTES", MAX_TOTAL_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(service, SETTINGS), log_level="warning"))
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()
        server.should_exit = True
        await asyncio.wait_for(serving, 20)


async def send_part(address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the first part of a webhook, and keep the connection open."""
    reader, writer = await asyncio.open_connection(*address)
    head = f"POST /webhooks/replicate HTTP/1.1\r\nHost: a\r\nContent-Length: {PART + 1}\r\n\r\n"
    writer.write(head.encode() + b"x" * PART)
    await writer.drain()
    return reader, writer


async def test_a_genuine_webhook_is_applied_while_3_times_the_memory_is_requested(
    service: AsyncPictureQueue, db: Any, address: tuple[str, int]
):
    (parked,) = await park_predictions(service, db, 1)
    senders = [await send_part(address) for _ in range(SENDERS)]
    answers = {asyncio.create_task(reader.read()) for reader, _ in senders}
    try:
        # The app cannot hold the bodies of all senders, so it refuses some of them.
        refused: set[asyncio.Task[bytes]] = set()
        min_refused = SENDERS - MAX_TOTAL_BYTES // PART
        async with asyncio.timeout(8):  # before the bodies reach the time limit of ten seconds
            while len(refused) < min_refused:
                refused, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)
        for task in refused:
            head = task.result().lower()
            assert head.startswith(b"http/1.1 503 "), head
            assert b"\r\nretry-after: 5\r\n" in head and b"\r\nconnection: close\r\n" in head
        url = "http://{}:{}".format(*address)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            forged = await http.post(**delivery(uuid4(), "p1", "succeeded", FORGED))
            assert forged.status_code == 401
            answer = await http.post(**delivery(parked.id, parked.prediction_id, "succeeded"))
        assert answer.json() == {"outcome": "applied"}
        assert any(not task.done() for task in answers)  # the flood still stands
    finally:
        for _, writer in senders:
            writer.close()
        for task in answers:
            task.cancel()
        await service.jobs.cancel(parked.job_id)
