"""The parts of HTTP/1.1, HTTP/2 and Postgres that the proxy reads: the bounds of answers."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Language: TypeAlias = Literal["http", "h2", "postgres"]

_HEADERS = 1  # type of a frame of HTTP/2


@dataclass(frozen=True)
class Answer:
    """An HTTP answer that the proxy gives itself.

    Attributes:
        status: Status code.
        body: Its body.
        headers: Its headers but the length.
        path: Prefix of the paths it is for.
        count: How many requests get it.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    path: str = "/rest/v1/"
    count: float = float("inf")

    def encode(self) -> bytes:
        """Return the answer as it goes over the wire."""
        headers = [*self.headers, ("content-length", str(len(self.body)))]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"HTTP/1.1 {self.status} Answer\r\n{lines}\r\n".encode() + self.body


def size_of_request(data: bytearray) -> int | None:
    """The length of the HTTP/1.1 request that these bytes begin, None before its head is there."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return len(head) + len(end) + int(value)
    return len(head) + len(end)


class Answers:
    """Finds the answers among the bytes of a server.

    One of HTTP is taken as a whole with its head: the server has carried the request out by then.
    One of Postgres ends with ReadyForQuery; its rows may come before the commit.
    """

    def __init__(self, language: Language) -> None:
        self._language = language
        self._asked = False
        self._answering = False
        self._connected = False
        self._frames = bytearray()

    def asked(self) -> None:
        """Note that the client sent something."""
        self._asked = True

    def received(self, data: bytes) -> tuple[bool, bool]:
        """Return whether an answer begins, and whether one ends, with these bytes of the server."""
        if self._language == "h2":
            found = self._has_headers(data)
            return found, found
        if self._language == "http":
            asked, self._asked = self._asked, False
            return asked, asked
        ready = len(data) >= 6 and data[-6:-1] == b"Z\x00\x00\x00\x05"
        if not self._connected:
            # The start of a session ends the same way, and is no answer.
            self._connected = ready
            self._asked = False
            return False, False
        begins = self._asked and not self._answering
        if begins:
            self._asked, self._answering = False, True
        ends = ready and self._answering
        if ends:
            self._answering = False
        return begins, ends

    def _has_headers(self, data: bytes) -> bool:
        """Return whether an HTTP/2 frame with the headers of an answer ends here."""
        self._frames += data
        found = False
        while len(self._frames) >= 9:
            size = int.from_bytes(self._frames[:3], "big")
            if len(self._frames) < 9 + size:
                break
            found = found or self._frames[3] == _HEADERS
            del self._frames[: 9 + size]
        return found
