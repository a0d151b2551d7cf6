"""The bodies of requests to the web app."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue.web.body import BodyReader, BodyRefused

KIB = 1024


class Request:
    """A request whose pieces arrive when they are put into its queue; None ends it."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        for piece in pieces:
            self.pieces.put_nowait(piece)

    async def stream(self) -> AsyncIterator[bytes]:
        while (piece := await self.pieces.get()) is not None:
            yield piece


def read(reader: BodyReader, request: Request) -> Any:
    return reader.read(request)  # type: ignore[arg-type]


async def test_large_bodies_that_are_being_received_share_a_limit() -> None:
    """Without it, an attacker with 150 connections can make the app use 387 MB."""
    reader = BodyReader(1000 * KIB, 500 * KIB)
    first = Request(b"x" * 300 * KIB)
    receiving = asyncio.create_task(read(reader, first))
    await asyncio.sleep(0)
    with pytest.raises(BodyRefused) as refused:
        await read(reader, Request(b"x" * 400 * KIB, None))
    assert refused.value.status == 503
    assert len(await read(reader, Request(b"x" * 60 * KIB, None))) == 60 * KIB  # a small body
    first.pieces.put_nowait(None)
    assert len(await receiving) == 300 * KIB
    assert len(await read(reader, Request(b"x" * 400 * KIB, None))) == 400 * KIB


async def test_a_body_that_is_too_large_is_refused_at_once() -> None:
    with pytest.raises(BodyRefused) as refused:
        await read(BodyReader(10, 10), Request(b"x" * 5, b"x" * 6))
    assert refused.value.status == 413
