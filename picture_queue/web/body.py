"""Bounded reading of request bodies."""

import asyncio

from starlette.requests import Request

_TIMEOUT = 10.0  # seconds to receive a body


class BodyRefused(Exception):
    """The body is too large, or did not arrive in time.

    Args:
        status: The HTTP status of the answer.
        reason: The reason, for the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        BodyRefused: It has more than ``max_bytes`` bytes, or did not arrive within ten seconds.
        ClientDisconnect: The client closed the connection.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_TIMEOUT):
            async for piece in request.stream():
                body += piece
                if len(body) > max_bytes:
                    raise BodyRefused(413, f"the body is larger than {max_bytes} bytes")
    except TimeoutError:
        raise BodyRefused(408, "the body did not arrive in time") from None
    return bytes(body)
