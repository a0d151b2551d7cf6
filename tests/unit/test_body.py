"""The bodies of requests to the web app."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest
from starlette.datastructures import URL, Headers

from picture_queue.web.body import BodyReader, BodyRefused

KIB = 1024


class Request:
    """A request whose pieces arrive when they are put into its queue; None ends it."""

    def __init__(self, *pieces: bytes | None, header: bytes = b"") -> None:
        self.headers = Headers(raw=[(b"x", header)])
        self.url = URL("http://a/b?c")
        self.has_stopped = asyncio.Event()
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        for piece in pieces:
            self.pieces.put_nowait(piece)

    async def stream(self) -> AsyncIterator[bytes]:
        while True:
            if self.pieces.empty():
                self.has_stopped.set()
            piece = await self.pieces.get()
            if piece is None:
                return
            yield piece


async def read(reader: BodyReader, request: Request) -> bytes:
    async with reader.receive(request) as body:  # type: ignore[arg-type]
        return body


async def start(reader: BodyReader, *requests: Request) -> list["asyncio.Task[bytes]"]:
    """Start to receive requests, and wait until their pieces have arrived."""
    tasks = [asyncio.create_task(read(reader, request)) for request in requests]
    for request, task in zip(requests, tasks, strict=True):
        stopped = asyncio.create_task(request.has_stopped.wait())
        await asyncio.wait({stopped, task}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    return tasks


async def expect_refused(body: Awaitable[bytes], status: int) -> None:
    with pytest.raises(BodyRefused) as refused:
        await asyncio.wait_for(body, 10)
    assert refused.value.status == status


async def test_a_body_is_received_while_others_hold_all_memory() -> None:
    """An attacker with 3,000 connections that sent 64 KB and stopped made the app use 400 MB."""
    reader = BodyReader(1000 * KIB, 1000 * KIB)
    stopped = [Request(b"x" * 64 * KIB) for _ in range(100)]
    tasks = await start(reader, *stopped)
    assert len(await read(reader, Request(b"x" * 60 * KIB, None))) == 60 * KIB
    assert len(await read(reader, Request(b"x" * 400 * KIB, None))) == 400 * KIB
    count = (1000 - 400) // (64 + 8)  # a request without body counts 8 KiB
    for task in tasks[:-count]:
        await expect_refused(task, 503)
    held = tasks[-count:]  # the newest
    assert not any(task.done() for task in held)
    for request in stopped[-count:]:
        request.pieces.put_nowait(None)
    assert {len(await task) for task in held} == {64 * KIB}
    # All memory is free again.
    assert len(await read(reader, Request(b"x" * 990 * KIB, None))) == 990 * KIB


async def test_a_body_that_needs_more_than_the_newer_ones_leave_is_refused() -> None:
    reader = BodyReader(1000 * KIB, 500 * KIB)
    first, second = Request(b"x" * 200 * KIB), Request(b"x" * 200 * KIB)
    oldest, newer = await start(reader, first, second)
    first.pieces.put_nowait(b"x" * 200 * KIB)
    await expect_refused(oldest, 503)
    second.pieces.put_nowait(b"x" * 200 * KIB)
    second.pieces.put_nowait(None)
    assert len(await newer) == 400 * KIB


async def test_bodies_count_until_their_senders_are_authenticated() -> None:
    reader = BodyReader(1000 * KIB, 500 * KIB)
    async with reader.receive(Request(b"x" * 300 * KIB, None)):  # type: ignore[arg-type]
        await expect_refused(read(reader, Request(b"x" * 300 * KIB, None)), 503)
        assert len(await read(reader, Request(b"x" * 100 * KIB, None))) == 100 * KIB
    assert len(await read(reader, Request(b"x" * 300 * KIB, None))) == 300 * KIB


async def test_headers_count() -> None:
    reader = BodyReader(1000 * KIB, 500 * KIB)
    requests = [Request(b"x", header=b"x" * 200 * KIB) for _ in range(3)]
    tasks = await start(reader, *requests)
    await expect_refused(tasks[0], 503)
    assert not any(task.done() for task in tasks[1:])
    for task in tasks[1:]:
        task.cancel()


async def test_a_body_that_does_not_arrive_in_time_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("picture_queue.web.body._TIMEOUT", 0.01)
    reader = BodyReader(1000 * KIB, 100 * KIB)
    await expect_refused(read(reader, Request(b"x" * 80 * KIB)), 408)
    assert len(await read(reader, Request(b"x" * 80 * KIB, None))) == 80 * KIB


async def test_a_body_that_is_too_large_is_refused_at_once() -> None:
    await expect_refused(read(BodyReader(10, 100 * KIB), Request(b"x" * 5, b"x" * 6)), 413)
