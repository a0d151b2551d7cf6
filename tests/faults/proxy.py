"""A TCP and TLS proxy in front of the gateway or of Postgres, with faults that a test switches.

=================  ================================================================================
`black_hole`       connections fall silent, to both sides; new ones work, or are silent as well
`half_open`        the server's side of connections ends, the client is not told; new ones work
`stall`            nothing passes, and nothing is lost: it goes on with `heal`
`delay`            each piece of data comes so many seconds late
`refuse`           new connections are refused; those there are go on
`reset`            connections are reset, once; new ones work
`lose_answers`     the server carries out the next n calls; instead of the answer comes a reset
`garble_answers`   the same, and instead of the answer comes something else
`answer`           HTTP/1.1 requests are answered with this, and never reach the server
=================  ================================================================================

`heal` ends what goes on. A connection that fell silent stays so, as behind a firewall that forgot
it. The proxy ends TLS itself, so that it sees where an answer begins. A client chooses by ALPN
between HTTP/2 and HTTP/1.1; the server gets the same without TLS.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Self

from .languages import Answer, Answers, Language, size_of_request
from .loop_thread import LoopThread

_PIECE = 65536
_GARBAGE = b"\x00this is no answer of this protocol\r\n\r\n"


class Proxy:
    """A proxy on a port of its own.

    Args:
        host: Where the server is.
        port: Its port.
        language: What is spoken; tells the end of an answer.
        tls: What clients are served with; None: no TLS.

    Attributes:
        port: Where it listens on 127.0.0.1, the same for as long as it lives.
        accepted: Connections accepted so far.
        lost: Answers that were lost or garbled so far.
        answered: Requests answered by the proxy itself so far.
    """

    def __init__(
        self, host: str, port: int, language: Language, tls: ssl.SSLContext | None = None
    ) -> None:
        self.server = (host, port)
        self.tls = tls
        self.language = language
        self._thread = LoopThread(f"proxy-{language}")
        self._connections: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.accepted = self.lost = self.answered = 0
        # What is switched on. Changed in the thread of the connections only.
        self.silent = False
        self.delay_seconds = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._losing = 0
        self.garbles = False
        self._answer: Answer | None = None
        self._answers_left = 0.0

    def __enter__(self) -> Self:
        self._thread.__enter__()
        self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop_listening)
        self._do(self._abort_all)
        self._thread.__exit__()

    # Faults ------------------------------------------------------------------------------------

    def black_hole(self, *, new: bool = False) -> None:
        """Make the connections fall silent; with `new` those to come as well, until `heal`."""

        def change() -> None:
            self.silent = new
            for connection in self._connections:
                connection.silent = True

        self._do(change)

    def half_open(self) -> None:
        """End the server's side of the connections without telling the client."""
        self.black_hole()
        self._do(lambda: [connection.end_server() for connection in list(self._connections)])

    def stall(self) -> None:
        """Hold all data back until `heal`."""
        self._do(self.flowing.clear)

    def delay(self, seconds: float) -> None:
        """Deliver each piece of data so much later, until `heal`."""
        self._do(lambda: setattr(self, "delay_seconds", seconds))

    def refuse(self) -> None:
        """Refuse new connections until `heal`."""
        self._do(self._stop_listening)

    def reset(self) -> None:
        """Reset the connections."""
        self._do(self._abort_all)

    def lose_answers(self, count: int = 1) -> None:
        """Reset the connection in place of each of the next answers."""
        self._do(lambda: self._lose(count, garbles=False))

    def garble_answers(self, count: int = 1) -> None:
        """Send garbage in place of each of the next answers."""
        self._do(lambda: self._lose(count, garbles=True))

    def answer(self, answer: Answer) -> None:
        """Answer requests in place of the server, until `heal` or its count."""
        assert self.language == "http", "only HTTP/1.1 is answered here"

        def change() -> None:
            self._answer, self._answers_left = answer, answer.count

        self._do(change)

    def heal(self) -> None:
        """End what goes on; connections that are silent stay so."""

        def change() -> None:
            self.silent = False
            self.delay_seconds = 0.0
            self._losing = 0
            self._answer = None
            self.flowing.set()
            self._listen()

        self._do(change)

    def _lose(self, count: int, *, garbles: bool) -> None:
        self._losing, self.garbles = count, garbles

    # Connections -------------------------------------------------------------------------------

    def _do(self, change: Callable[[], object]) -> None:
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
            return  # the client has gone
        self.accepted += 1
        connection = _Connection(self, client)
        # Here, since at the end a task may be cancelled before its first step.
        self._connections.add(connection)
        serving = asyncio.create_task(self._serve(connection))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, connection: "_Connection") -> None:
        try:
            await connection.run()
        except OSError:
            pass  # one of the two sides has gone
        finally:
            self._connections.discard(connection)
            connection.close()

    def take_loss(self) -> bool:
        """Return whether to lose the answer that begins."""
        if self._losing <= 0:
            return False
        self._losing -= 1
        return True

    def take_answer(self, request: bytes) -> bytes | None:
        """The proxy's own answer to a request, None where the server is to give it."""
        answer = self._answer
        target = (request.split(b" ", 2)[1:2] or [b""])[0]
        if answer is None or self._answers_left < 1 or not target.startswith(answer.path.encode()):
            return None
        self._answers_left -= 1
        self.answered += 1
        return answer.encode()

    @property
    def answers_itself(self) -> bool:
        """True if the proxy reads requests, to answer them itself."""
        return self._answer is not None


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._socket = client
        self._client: asyncio.StreamWriter | None = None
        self._server: asyncio.StreamWriter | None = None
        self._answers = Answers(proxy.language)
        self._loses_answer = False  # the answer that has begun
        self._request = bytearray()  # what the proxy answers, until it is complete
        self.silent = proxy.silent

    async def run(self) -> None:
        """Pass on what comes until one of the two sides ends."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        while self.silent:  # before the handshake of TLS
            if not await loop.sock_recv(self._socket, _PIECE):
                return
        from_client = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(from_client, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, self._socket, ssl=self._proxy.tls
        )
        self._client = asyncio.StreamWriter(transport, protocol, from_client, loop)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._answers = Answers("http")  # the client did not want HTTP/2
        from_server, self._server = await asyncio.open_connection(*self._proxy.server)
        asking = asyncio.create_task(self._pass_on(from_client, self._server, self._asked))
        answering = asyncio.create_task(self._pass_on(from_server, self._client, self._answered))
        try:
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            if self.silent:  # the end of the server's side is no news to the client
                await asking
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)

    async def _pass_on(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        inspect: Callable[[bytes], bytes],
    ) -> None:
        while data := await source.read(_PIECE):
            if self._proxy.delay_seconds:
                await asyncio.sleep(self._proxy.delay_seconds)
            await self._proxy.flowing.wait()
            if self.silent:
                continue
            if passed := inspect(data):
                sink.write(passed)
                await sink.drain()

    def _asked(self, data: bytes) -> bytes:
        """Return the bytes to pass on to the server, of these that the client sent."""
        self._answers.asked()
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

    def _answered(self, data: bytes) -> bytes:
        """Return the bytes to pass on to the client, of these that the server sent.

        Raises:
            ConnectionResetError: Nothing, and the connection ends.
        """
        begins, ends = self._answers.received(data)
        if begins:
            self._loses_answer = self._proxy.take_loss()
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
        """End the server's side."""
        if self._server is not None:
            self._server.transport.abort()

    def close(self) -> None:
        """End both sides, after what was written."""
        for writer in (self._client, self._server):
            if writer is not None:
                writer.close()
        if self._client is None:
            self._socket.close()

    def abort(self) -> None:
        """Reset both sides."""
        with contextlib.suppress(OSError):
            # With a linger of 0 seconds a close sends RST.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._client is not None:
            self._client.transport.abort()
        else:
            self._socket.close()
        self.end_server()
