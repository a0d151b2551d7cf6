"""Bounded reading of request bodies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

_TIMEOUT = 10.0  # seconds to receive a body
_BASE_SIZE = 8 * 1024  # bytes that count for a request without headers and body


class BodyRefused(Exception):
    """The body is too large, did not arrive in time, or there is no memory for it.

    Args:
        status: The HTTP status of the answer.
        reason: The reason, for the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Reception:
    """A request whose body is being received.

    Attributes:
        size: The bytes that the request holds.
        body: The bytes of the body that have arrived.
        timeout: The time limit of the reception.
        is_stopped: True if the memory of the request was needed for another request.
    """

    def __init__(self) -> None:
        self.size = 0
        self.body = bytearray()
        self.timeout = asyncio.timeout(_TIMEOUT)
        self.is_stopped = False

    def stop(self) -> None:
        """End the reception, and free the memory of the body at once."""
        self.is_stopped = True
        self.body.clear()
        if not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time())


class BodyReader:
    """A reader of the bodies of one route, whose senders are not authenticated yet.

    If a request needs more memory than is left, the requests whose bodies began to arrive first are
    refused. So senders that stop in the middle of a body do not keep others from sending: a body
    that arrives quickly is refused only if as many bytes as the limit arrive in the meantime.

    Args:
        max_bytes: Maximum bytes of one body.
        max_total_bytes: Maximum bytes of all requests whose bodies are being received or
            authenticated, with their headers.
    """

    def __init__(self, max_bytes: int, max_total_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes_left = max_total_bytes
        self._receptions: dict[_Reception, None] = {}  # in the order of their start

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """Receive the body of a request. Leave the context when the sender is authenticated.

        Raises:
            BodyRefused: The body has more than ``max_bytes`` bytes, did not arrive within ten
                seconds, or its memory is needed for other bodies.
            ClientDisconnect: The client closed the connection.
        """
        reception = _Reception()
        try:
            yield await self._read(request, reception)
        finally:
            self._bytes_left += reception.size

    async def _read(self, request: Request, reception: _Reception) -> bytes:
        self._receptions[reception] = None
        try:
            async with reception.timeout:
                self._reserve(reception, _BASE_SIZE + _size_of_head(request))
                async for piece in request.stream():
                    if len(reception.body) + len(piece) > self._max_bytes:
                        reason = f"the body is larger than {self._max_bytes} bytes"
                        raise BodyRefused(413, reason)
                    self._reserve(reception, len(piece))
                    reception.body += piece
        except TimeoutError:
            if not reception.is_stopped:
                raise BodyRefused(408, "the body did not arrive in time") from None
        finally:
            self._receptions.pop(reception, None)
        if reception.is_stopped:
            raise _no_memory()
        body = bytes(reception.body)
        reception.body.clear()
        return body

    def _reserve(self, reception: _Reception, size: int) -> None:
        """Reserve bytes for a request, and stop older ones if necessary.

        Raises:
            BodyRefused: The request was stopped, or no older one is left to stop.
        """
        while not reception.is_stopped and size > self._bytes_left:
            oldest = next(iter(self._receptions))
            del self._receptions[oldest]
            oldest.stop()
            self._bytes_left += oldest.size
            oldest.size = 0
        if reception.is_stopped:
            raise _no_memory()
        self._bytes_left -= size
        reception.size += size


def _size_of_head(request: Request) -> int:
    head = sum(len(name) + len(value) for name, value in request.headers.raw)
    return head + len(request.url.path) + len(request.url.query)


def _no_memory() -> BodyRefused:
    return BodyRefused(503, "too many bodies are being received")
