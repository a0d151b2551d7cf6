"""Parsers for HTTP/1.1, HTTP/2 and Postgres, which find where a response begins and ends."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

ProtocolName: TypeAlias = Literal["http", "h2", "postgres"]

_HEADERS = 1  # the type of a HEADERS frame in HTTP/2


@dataclass(frozen=True)
class Answer:
    """A response that the proxy sends itself, in HTTP/1.1.

    Attributes:
        status: The status code.
        body: The body.
        headers: The headers, except the content length.
        path: The prefix of the paths whose requests the proxy answers.
        count: The number of requests to answer.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    path: str = "/rest/v1/"
    count: float = float("inf")

    def encode(self) -> bytes:
        """Return the response as bytes of HTTP/1.1."""
        headers = [*self.headers, ("content-length", str(len(self.body)))]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"HTTP/1.1 {self.status} Answer\r\n{lines}\r\n".encode() + self.body


def size_of_request(data: bytearray) -> int | None:
    """Return the length of the first HTTP/1.1 request, or None while its head is incomplete."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return len(head) + len(end) + int(value)
    return len(head) + len(end)


class ResponseParser:
    """A parser that finds the responses in the bytes of a server.

    The first bytes of an HTTP response arrive after the server has executed the request. From
    Postgres, rows may arrive before the commit; only ReadyForQuery ends the response.
    """

    def __init__(self, protocol: ProtocolName) -> None:
        self._protocol = protocol
        self._requested = False
        self._responding = False
        self._session_started = False
        self._frames = bytearray()

    def record_request(self) -> None:
        """Record that the client has sent data."""
        self._requested = True

    def feed(self, data: bytes) -> tuple[bool, bool]:
        """Return whether a response begins, and whether one ends, in these bytes of the server."""
        if self._protocol == "h2":
            # A call counts as executed when the headers of its response arrive.
            has_headers = self._has_headers(data)
            return has_headers, has_headers
        if self._protocol == "http":
            begins, self._requested = self._requested, False
            return begins, begins
        is_ready = len(data) >= 6 and data[-6:-1] == b"Z\x00\x00\x00\x05"  # ReadyForQuery
        if not self._session_started:
            # The startup of a session ends with ReadyForQuery too, but is not a response.
            self._session_started = is_ready
            self._requested = False
            return False, False
        begins = self._requested and not self._responding
        if begins:
            self._requested, self._responding = False, True
        ends = is_ready and self._responding
        if ends:
            self._responding = False
        return begins, ends

    def _has_headers(self, data: bytes) -> bool:
        """Return True if an HTTP/2 frame with the headers of a response ends here."""
        self._frames += data
        has_headers = False
        while len(self._frames) >= 9:  # bytes of the header of a frame
            size = int.from_bytes(self._frames[:3], "big")
            if len(self._frames) < 9 + size:
                break
            has_headers = has_headers or self._frames[3] == _HEADERS
            del self._frames[: 9 + size]
        return has_headers
