"""The HTTP/1.1 protocol of our servers, with limits for slow and malicious clients.

uvicorn has no time limit for the head of a request, and none for a client that does not read.
"""

import asyncio
import logging
import math
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_log = logging.getLogger(__name__)

_HEAD_TIMEOUT = 10.0  # seconds until the head of a request is complete
_HEAD_LIMIT = 64 * 1024  # bytes; PostgREST accepts 50 KiB
_PIPELINE_LIMIT = 100  # requests of one connection that wait until earlier requests are answered
_WRITE_TIMEOUT = 60.0  # seconds for which a client may read nothing of an answer
_SEND_BUFFER = 64 * 1024  # bytes that the kernel buffers for a client
_WARN_INTERVAL = 60.0  # seconds


def _max_descriptors() -> float:
    """Return the number of open files at which new connections are refused.

    The other descriptors are for files and for connections to the project.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit * 3 // 4


_DESCRIPTOR_LIMIT = _max_descriptors()


class SlowClientCheck(asyncio.Protocol):
    """A mixin for both protocols that disconnects a client which does not read."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _write_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    def _start_write_timer(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(_WRITE_TIMEOUT, self._check_progress, unread)

    def _check_progress(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._start_write_timer()
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_write_timer()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class BoundedHttpProtocol(SlowClientCheck, HttpToolsProtocol):
    """The HTTP/1.1 protocol of uvicorn with bounds on what one client can occupy."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_size = 0  # bytes received since the last complete head or piece of a body
    _warned_at = -math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        # Linux would buffer up to 4 MB, and accept more only after the client has read a third of
        # the buffer. So a client that reads slowly would seem to read nothing.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        # A new socket gets the lowest free number, so this number shows how many descriptors are
        # open.
        if connection.fileno() >= _DESCRIPTOR_LIMIT:
            transport.abort()
            if self.loop.time() > BoundedHttpProtocol._warned_at + _WARN_INTERVAL:
                BoundedHttpProtocol._warned_at = self.loop.time()
                _log.warning("closing new connections: %g files are open", _DESCRIPTOR_LIMIT)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        self._head_size += len(data)
        super().data_received(data)
        if self._head_size > _HEAD_LIMIT and not self.transport.is_closing():
            # The parser keeps the whole head, and also headers that follow a body.
            self.send_400_response("The head of the request is too large.")
        if len(self.pipeline) > _PIPELINE_LIMIT:
            self.transport.abort()  # uvicorn reads more after each answer, without a limit
        self._watch_head()

    def on_headers_complete(self) -> None:
        self._head_size = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_size = 0
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch_head()

    def _watch_head(self) -> None:
        """Close the connection unless the head of the next request is complete in time."""
        # The set does not contain lost connections and connections that have become WebSockets.
        is_waiting = self in self.connections and (
            self.cycle is None or self.cycle.response_complete
        )
        if is_waiting and self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_TIMEOUT, self.transport.abort)
        elif not is_waiting and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
