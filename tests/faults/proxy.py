"""A TCP and TLS proxy in front of the gateway or of Postgres, with faults that a test turns on.

=================  ================================================================================
`black_hole`       connections drop all data in both directions; with `new`, also new connections
`half_open`        the server's side is closed, the client's side stays open; new connections work
`stall`            data is held back without loss, until `heal`
`delay`            all data is delivered some seconds late
`refuse`           new connections are refused; existing connections continue
`reset`            the existing connections are reset; new connections work
`lose_answers`     the server executes the next n calls; the client gets a reset
`garble_answers`   the server executes the next n calls; the client gets garbage
`answer`           the proxy answers HTTP/1.1 requests instead of the server
=================  ================================================================================

`heal` ends the faults. But a connection that drops data still does so after `heal`, as behind a
firewall that has lost the state of the connection. The proxy terminates TLS, so that it can find
the responses. A client chooses between HTTP/2 and HTTP/1.1 by ALPN; the server gets the same
protocol without TLS.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Self

from .loop_thread import LoopThread
from .protocols import Answer, ProtocolName, ResponseParser, size_of_request

_CHUNK_SIZE = 65536  # bytes
_GARBAGE = b"\x00this is not a response of this protocol\r\n\r\n"


class Proxy:
    """A proxy on its own port.

    Args:
        host: The host of the server.
        port: The port of the server.
        protocol: The protocol, which determines where a response ends.
        tls: The TLS context for clients; None for connections without TLS.

    Attributes:
        port: The port on 127.0.0.1; it never changes.
        accepted: The number of accepted connections.
        lost: The number of lost or garbled responses.
        answered: The number of requests that the proxy itself answered.
    """

    def __init__(
        self, host: str, port: int, protocol: ProtocolName, tls: ssl.SSLContext | None = None
    ) -> None:
        self.server = (host, port)
        self.tls = tls
        self.protocol = protocol
        self._thread = LoopThread(f"proxy-{protocol}")
        self._connections: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.accepted = self.lost = self.answered = 0
        # The active faults. Only the thread that serves the connections changes these attributes.
        self.silent = False
        self.delay_seconds = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._left_to_lose = 0
        self.garbles = False
        self._answer: Answer | None = None
        self._answers_left = 0.0

    def __enter__(self) -> Self:
        self._thread.__enter__()
        self._run_in_loop(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._run_in_loop(self._stop_listening)
        self._run_in_loop(self._abort_all)
        self._thread.__exit__()

    # Faults ------------------------------------------------------------------------------------

    def black_hole(self, *, new: bool = False) -> None:
        """Drop all data of existing connections; with `new` also of new connections."""

        def change() -> None:
            self.silent = new
            for connection in self._connections:
                connection.silent = True

        self._run_in_loop(change)

    def half_open(self) -> None:
        """Close the server's side of the connections without telling the client."""
        self.black_hole()
        self._run_in_loop(
            lambda: [connection.end_server() for connection in list(self._connections)]
        )

    def stall(self) -> None:
        """Hold all data back until `heal`."""
        self._run_in_loop(self.flowing.clear)

    def delay(self, seconds: float) -> None:
        """Deliver all data late, until `heal`."""
        self._run_in_loop(lambda: setattr(self, "delay_seconds", seconds))

    def refuse(self) -> None:
        """Refuse new connections until `heal`."""
        self._run_in_loop(self._stop_listening)

    def reset(self) -> None:
        """Reset the connections."""
        self._run_in_loop(self._abort_all)

    def lose_answers(self, count: int = 1) -> None:
        """Reset the connection in place of each of the next responses."""
        self._run_in_loop(lambda: self._lose(count, garbles=False))

    def garble_answers(self, count: int = 1) -> None:
        """Send garbage in place of each of the next responses."""
        self._run_in_loop(lambda: self._lose(count, garbles=True))

    def answer(self, answer: Answer) -> None:
        """Answer requests in place of the server, until `heal` or for a number of requests."""
        assert self.protocol == "http", "the proxy can answer only HTTP/1.1 requests"

        def change() -> None:
            self._answer, self._answers_left = answer, answer.count

        self._run_in_loop(change)

    def heal(self) -> None:
        """End the faults, except for connections that already drop data."""

        def change() -> None:
            self.silent = False
            self.delay_seconds = 0.0
            self._left_to_lose = 0
            self._answer = None
            self.flowing.set()
            self._listen()

        self._run_in_loop(change)

    def _lose(self, count: int, *, garbles: bool) -> None:
        self._left_to_lose, self.garbles = count, garbles

    # Connections -------------------------------------------------------------------------------

    def _run_in_loop(self, change: Callable[[], object]) -> None:
        async def run() -> None:
            change()

        self._thread.run(run())

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # the client has closed the connection
        self.accepted += 1
        connection = _Connection(self, client)
        # Add the connection here, because the task may be cancelled before its first step.
        self._connections.add(connection)
        serving = asyncio.create_task(self._serve(connection))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, connection: "_Connection") -> None:
        try:
            await connection.run()
        except OSError:
            pass  # one of the two sides has closed the connection
        finally:
            self._connections.discard(connection)
            connection.close()

    def should_lose(self) -> bool:
        """Return True if the response that begins now must be lost, and count it."""
        if self._left_to_lose <= 0:
            return False
        self._left_to_lose -= 1
        return True

    def take_answer(self, request: bytes) -> bytes | None:
        """Return the proxy's own response to a request; None if the server must answer."""
        answer = self._answer
        target = (request.split(b" ", 2)[1:2] or [b""])[0]
        if answer is None or self._answers_left < 1 or not target.startswith(answer.path.encode()):
            return None
        self._answers_left -= 1
        self.answered += 1
        return answer.encode()

    @property
    def answers_itself(self) -> bool:
        """True if the proxy answers requests, so that it must parse them."""
        return self._answer is not None


class _Connection:
    """A connection of a client, and the matching connection to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._socket = client
        self._client: asyncio.StreamWriter | None = None
        self._server: asyncio.StreamWriter | None = None
        self._responses = ResponseParser(proxy.protocol)
        self._loses_answer = False  # whether the response that has begun will be lost
        # If the proxy answers requests itself: the part of a request that has arrived.
        self._request = bytearray()
        self.silent = proxy.silent

    async def run(self) -> None:
        """Forward data until one of the two sides ends."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        while self.silent:  # discard data before the TLS handshake as well
            if not await loop.sock_recv(self._socket, _CHUNK_SIZE):
                return
        from_client = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(from_client, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, self._socket, ssl=self._proxy.tls
        )
        self._client = asyncio.StreamWriter(transport, protocol, from_client, loop)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._responses = ResponseParser("http")  # the client did not choose HTTP/2
        from_server, self._server = await asyncio.open_connection(*self._proxy.server)
        to_server = asyncio.create_task(
            self._forward(from_client, self._server, self._on_client_data)
        )
        to_client = asyncio.create_task(
            self._forward(from_server, self._client, self._on_server_data)
        )
        try:
            await asyncio.wait({to_server, to_client}, return_when=asyncio.FIRST_COMPLETED)
            if self.silent:  # leave the client's side open when the server's side closes
                await to_server
        finally:
            for task in (to_server, to_client):
                task.cancel()
            await asyncio.gather(to_server, to_client, return_exceptions=True)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        filter_data: Callable[[bytes], bytes],
    ) -> None:
        while data := await source.read(_CHUNK_SIZE):
            if self._proxy.delay_seconds:
                await asyncio.sleep(self._proxy.delay_seconds)
            await self._proxy.flowing.wait()
            if self.silent:
                continue
            if forwarded := filter_data(data):
                sink.write(forwarded)
                await sink.drain()

    def _on_client_data(self, data: bytes) -> bytes:
        """Return the part of the client's data that must be forwarded to the server."""
        self._responses.record_request()
        if not self._request and not self._proxy.answers_itself:
            return data
        self._request += data
        size = size_of_request(self._request)
        if size is None or len(self._request) < size:
            return b""
        request = bytes(self._request)
        self._request.clear()
        answer = self._proxy.take_answer(request)
        if answer is None:
            return request
        if self._client is not None:
            self._client.write(answer)
        return b""

    def _on_server_data(self, data: bytes) -> bytes:
        """Return the part of the server's data that must be forwarded to the client.

        Raises:
            ConnectionResetError: The response is lost, and the connection ends.
        """
        begins, ends = self._responses.feed(data)
        if begins:
            self._loses_answer = self._proxy.should_lose()
        if not self._loses_answer:
            return data
        if not ends:
            return b""
        self._proxy.lost += 1
        if self._proxy.garbles and self._client is not None:
            self._client.write(_GARBAGE)
        else:
            self.abort()
        raise ConnectionResetError

    def end_server(self) -> None:
        """Close the server's side."""
        if self._server is not None:
            self._server.transport.abort()

    def close(self) -> None:
        """Close both sides after all written data is sent."""
        for writer in (self._client, self._server):
            if writer is not None:
                writer.close()
        if self._client is None:
            self._socket.close()

    def abort(self) -> None:
        """Reset both sides."""
        with contextlib.suppress(OSError):
            # With a linger time of 0 seconds, close() sends RST.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._client is not None:
            self._client.transport.abort()
        else:
            self._socket.close()
        self.end_server()
