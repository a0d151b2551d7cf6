"""The HTTP servers that run in the daemon's event loop: the gateway and the simulator."""

import asyncio
import contextlib
import logging
import math
import resource
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from picture_queue.errors import LocalStackError
from picture_queue.local import gateway, simulator
from picture_queue.local.cluster import Cluster
from picture_queue.local.datadir import DataDir
from picture_queue.local.keys import Secrets
from picture_queue.local.ports import HOST, port_of
from picture_queue.local.programs import PostgREST, status_of

_log = logging.getLogger(__name__)

_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0
_SHUTDOWN_GRACE = 2  # seconds that open requests get at a stop
_POLL_INTERVAL = 0.005
class _WebSocketProtocol(WebSocketsSansIOProtocol):
    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the app; after a refusal, mark the handshake as complete."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # Otherwise uvicorn logs an error, because the app ended before the handshake.
            self.handshake_complete = True
            if self.initial_response:
                _log.info("refused a WebSocket with status %d", self.initial_response[0])


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the daemon handles signals and stops its parts in order."""
        yield
