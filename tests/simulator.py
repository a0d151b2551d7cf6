"""A simulator of Replicate in the process of the test, whose clock the test advances."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from picture_queue.local.simulator import SimulatorSettings, create_app


class Clock:
    """The time of the simulator."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class InProcessTransport(httpx.ASGITransport):
    """An in-process transport that raises a network error if a response is incomplete."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AssertionError:
            raise httpx.RemoteProtocolError("incomplete", request=request) from None


@asynccontextmanager
async def open_simulator(
    settings: SimulatorSettings,
    clock: Clock,
    headers: Mapping[str, str],
    base_url: str = "http://simulator.localhost",
) -> AsyncIterator[httpx.AsyncClient]:
    """Start a simulator; yield an HTTP client that calls it."""
    transport = InProcessTransport(create_app(settings, clock=clock))
    async with httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers) as client:
        yield client
