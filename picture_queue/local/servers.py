"""The HTTP servers that run in the daemon's event loop: the gateway and the simulator."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from picture_queue._http_protocol import BoundedHttpProtocol, SlowClientCheck
from picture_queue.errors import LocalStackError
from picture_queue.local import gateway, simulator
from picture_queue.local.cluster import Cluster
from picture_queue.local.datadir import DataDir
from picture_queue.local.keys import Secrets
from picture_queue.local.ports import HOST, port_of
from picture_queue.local.programs import PostgREST, fetch_status

_log = logging.getLogger(__name__)

_START_TIMEOUT = 20.0  # seconds
_STOP_TIMEOUT = 10.0  # seconds
_REQUEST_STOP_TIMEOUT = 2  # seconds that open requests get at a stop
_POLL_INTERVAL = 0.005  # seconds
_UNREAD_LIMIT = 2 * gateway.FRAME_LIMIT  # bytes; enough for two messages of the maximum size
# A limit on bytes is not enough for a WebSocket message, because a fragment may be empty.
_FRAGMENT_LIMIT = 10_000  # fragments
_BAD_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class HttpServers:
    """The servers of the gateway and the simulator, on sockets that are already listening.

    Args:
        data: The data directory, in which the gateway stores objects.
        secrets: The keys of the stack.
        cluster: The running database.
        postgrest: The PostgREST that serves ``/rest/v1``.
        api: The listening sockets of the gateway.
        replicate: The listening sockets of the simulator.
        replicate_seconds: Duration of simulated predictions; None: as long as real models.
        allowed_origins: Origins, besides loopback, whose pages may call the gateway.
    """

    def __init__(
        self,
        data: DataDir,
        secrets: Secrets,
        cluster: Cluster,
        postgrest: PostgREST,
        api: list[socket.socket],
        replicate: list[socket.socket],
        replicate_seconds: float | None,
        allowed_origins: tuple[str, ...],
    ) -> None:
        self._api_port = port_of(api)
        self.api_url = f"http://{HOST}:{self._api_port}"
        base_url = f"http://{HOST}:{port_of(replicate)}"
        self.replicate_url = f"{base_url}/v1"
        gateway_app = gateway.create_app(
            gateway.GatewaySettings(
                postgrest_socket=postgrest.socket,
                auth_database_url=cluster.internal_dsn("supabase_auth_admin"),
                realtime_database_url=cluster.internal_dsn("supabase_realtime_admin"),
                storage_database_url=cluster.internal_dsn("supabase_storage_admin"),
                jwt_secret=secrets.jwt_secret,
                api_url=self.api_url,
                storage_dir=data.storage,
                anon_key=secrets.anon_key,
                service_role_key=secrets.service_role_key,
                publishable_key=secrets.publishable_key,
                secret_key=secrets.secret_key,
                allowed_origins=allowed_origins,
            )
        )
        simulator_app = simulator.create_app(
            simulator.SimulatorSettings(
                base_url=base_url,
                storage_url=self.api_url,
                seconds=replicate_seconds,
                token=secrets.simulator_token,
                admin_keys=(secrets.secret_key, secrets.service_role_key),
            )
        )
        self._servers = (
            _AppServer("simulator", simulator_app, replicate),
            _AppServer("gateway", gateway_app, api),
        )

    async def start(self) -> None:
        """Start both servers and wait until the gateway answers.

        Raises:
            LocalStackError: A server does not start.
        """
        for server in self._servers:
            await server.start()
        if await fetch_status(self._api_port, "/auth/v1/.well-known/jwks.json") is None:
            raise LocalStackError("The gateway does not answer")

    async def stop(self) -> None:
        """Stop both servers; safe even if a start failed or was cancelled."""
        await asyncio.gather(*(server.stop() for server in self._servers))


class _AppServer:
    def __init__(self, name: str, app: ASGIApp, listeners: list[socket.socket]) -> None:
        self._name = name
        self._listeners = listeners
        self._server = _UvicornServer(
            uvicorn.Config(
                app,
                http=BoundedHttpProtocol,
                ws=_WebSocketProtocol,
                ws_max_size=gateway.FRAME_LIMIT,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=_REQUEST_STOP_TIMEOUT,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._serve(), name=self._name)
        async with asyncio.timeout(_START_TIMEOUT):
            while not self._server.started:
                if self._task.done():
                    cause = self._task.exception()
                    raise LocalStackError(f"The {self._name} did not start") from cause
                await asyncio.sleep(_POLL_INTERVAL)

    async def _serve(self) -> None:
        # Uvicorn raises SystemExit if the app did not start, and has logged the cause.
        with contextlib.suppress(SystemExit):
            await self._server.serve(sockets=self._listeners)

    async def stop(self) -> None:
        if self._task is None:
            return
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=_STOP_TIMEOUT)
        self._task.cancel()
        await asyncio.wait([self._task], timeout=_STOP_TIMEOUT)


# Used instead of uvicorn's default, which depends on a deprecated API of `websockets`.
class _WebSocketProtocol(SlowClientCheck, WebSocketsSansIOProtocol):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > _UNREAD_LIMIT:
            self.transport.abort()  # uvicorn answers each ping, without a limit
        if not self.handshake_initiated:
            # The first data is a whole head. If `websockets` refuses the head, for example because
            # of a line of over 8 KiB, uvicorn would leave the connection open for ever.
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > _FRAGMENT_LIMIT:
            self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the app; after a refusal, mark the handshake as complete."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # Otherwise uvicorn logs an error, because the app ended before the handshake.
            self.handshake_complete = True
            if self.initial_response:
                _log.info("refused a WebSocket with status %d", self.initial_response[0])


class _UvicornServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the daemon handles signals and stops its parts in order."""
        yield
