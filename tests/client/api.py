"""A fake API: an HTTP server on a real socket, whose responses each test sets."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from picture_queue import _rpc

VERSION = {"version": "1", "contract": _rpc.CONTRACT, "oldest_client_contract": 1}


@dataclass
class Answer:
    """A response of the server.

    Attributes:
        status: The HTTP status.
        body: The body.
        headers: The headers, besides the content type and the length.
        write: A function that writes the rest of the response after the status and the headers, in
            place of the body.
    """

    status: int = 200
    body: bytes = b'"ok"'
    headers: dict[str, str] = field(default_factory=dict)
    write: Callable[[BaseHTTPRequestHandler], None] | None = None


class Api:
    """A server that sends the responses in `answers` in order, and then "ok" to each call.

    Calls of `picture_queue_version` get the supported version, and are not recorded.

    Attributes:
        answers: The next responses.
        called: The function of each call.
        paths: The method and the path of each call.
        sockets: The address of the client's socket for each call.
        received: The headers and the body of the last call.
        authorizations: The headers ``Authorization`` of the last call.
        silent_sockets: The addresses of the client's sockets that get no more responses.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: list[Answer] = []
        self.called: list[str] = []
        self.paths: list[str] = []
        self.received: tuple[dict[str, str], bytes] = ({}, b"")
        self.authorizations: list[str] = []
        self.sockets: list[tuple[str, int]] = []
        self.silent_sockets: set[tuple[str, int]] = set()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                api._answer(self, body)

            do_GET = do_POST

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        function = handler.path.rpartition("/")[2]
        answer = Answer(body=json.dumps(VERSION).encode())
        if function != "picture_queue_version":
            self.called.append(function)
            self.paths.append(f"{handler.command} {handler.path}")
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.received = (headers, body)
            self.authorizations = handler.headers.get_all("authorization", [])
            self.sockets.append(handler.client_address)
            answer = self.answers.pop(0) if self.answers else Answer()
        if handler.client_address in self.silent_sockets:
            hang(handler)
            return
        handler.send_response(answer.status)
        for name, value in ({"content-type": "application/json"} | answer.headers).items():
            handler.send_header(name, value)
        if answer.write is None:
            handler.send_header("content-length", str(len(answer.body)))
            handler.end_headers()
            handler.wfile.write(answer.body)
        else:
            answer.write(handler)

    @contextmanager
    def serving(self) -> Iterator["Api"]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Send nothing more on this connection, and leave it open until the client closes it."""
    handler.wfile.flush()
    handler.close_connection = True
    while handler.connection.recv(1):
        pass


def send_endlessly(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte every 50 ms until the client closes the connection."""
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    pause = threading.Event()
    try:
        while not pause.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True


def free_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
