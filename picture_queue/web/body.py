"""Bounded reading of request bodies."""

import asyncio

from starlette.requests import Request

_TIMEOUT = 10.0  # seconds to receive a body
_SMALL_BODY = 64 * 1024  # bytes of each body that do not count for the shared limit


class BodyRefused(Exception):
    """The body is too large, or did not arrive in time.

    Args:
        status: The HTTP status of the answer.
        reason: The reason, for the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class BodyReader:
    """A reader of the bodies of one route, whose senders are not authenticated yet.

    Args:
        max_bytes: Maximum bytes of one body.
        max_shared_bytes: Maximum bytes of all bodies that are being received, without the first
            64 KiB of each. So a few large bodies cannot keep small ones from being received.
    """

    def __init__(self, max_bytes: int, max_shared_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._shared_bytes_left = max_shared_bytes

    async def read(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            BodyRefused: The body has more than ``max_bytes`` bytes, did not arrive within ten
                seconds, or too many large bodies are being received.
            ClientDisconnect: The client closed the connection.
        """
        body = bytearray()
        shared_bytes = 0
        try:
            async with asyncio.timeout(_TIMEOUT):
                async for piece in request.stream():
                    if len(body) + len(piece) > self._max_bytes:
                        reason = f"the body is larger than {self._max_bytes} bytes"
                        raise BodyRefused(413, reason)
                    body += piece
                    needed = max(len(body) - _SMALL_BODY, 0) - shared_bytes
                    if needed > self._shared_bytes_left:
                        raise BodyRefused(503, "too many large bodies are being received")
                    self._shared_bytes_left -= needed
                    shared_bytes += needed
        except TimeoutError:
            raise BodyRefused(408, "the body did not arrive in time") from None
        finally:
            self._shared_bytes_left += shared_bytes
        return bytes(body)
