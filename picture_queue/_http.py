"""HTTP clients that stay fast while many requests wait for a connection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

# Supabase's API answers fewer calls than this at the same time, and Replicate permits 50 a second.
# The answers that arrive together are processed in one pass of the event loop, so that 100 would
# block it for a tenth of a second.
_CONNECTIONS = 32


class AsyncHttpClient(httpx.AsyncClient):
    """An async HTTP client whose requests wait in order for one of 32 connections.

    Whenever a request begins or ends, httpcore compares each waiting request with each connection.
    With a thousand waiting requests this blocks the event loop for seconds. So requests wait here,
    and httpcore gets only requests for which it has a connection.
    """

    def __init__(self, **options: Any) -> None:
        # If there are more connections than `max_keepalive_connections`, httpcore closes each after
        # its request.
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        super().__init__(limits=limits, **options)
        self._slots = asyncio.Semaphore(_CONNECTIONS)

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request once a connection is free.

        Raises:
            PoolTimeout: No connection became free within the timeout ``pool`` of the request.
        """
        timeouts = request.extensions.get("timeout", {})
        try:
            async with asyncio.timeout(timeouts.get("pool") if self._slots.locked() else None):
                await self._slots.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("no connection became free", request=request) from error
        try:
            response = await super().send(request, **options)
        except BaseException:
            self._slots.release()
            raise
        if response.is_closed:  # its body was read
            self._slots.release()
        else:
            assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for mypy
            response.stream = _Stream(response.stream, self._slots.release)
        return response


class _Stream(httpx.AsyncByteStream):
    """The body of a response, which frees the slot of its request when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, release: Callable[[], None]) -> None:
        self._stream = stream
        self._release = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._release()


#: The HTTP client of synchronous code: too few threads exist for many requests to wait.
HttpClient = httpx.Client
