"""The routes of Realtime: the WebSocket and broadcasts over HTTP."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.websockets import WebSocket

from picture_queue.local import json_body
from picture_queue.local.gateway.api_key import read_key, refuse_without_key
from picture_queue.local.gateway.credentials import Caller, Credentials, InvalidToken
from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.faults import Faults, Switches
from picture_queue.local.gateway.missing import not_implemented
from picture_queue.local.gateway.realtime import frames, versions
from picture_queue.local.gateway.realtime.access import Access
from picture_queue.local.gateway.realtime.hub import Hub
from picture_queue.local.gateway.realtime.limits import Quota
from picture_queue.local.gateway.realtime.listener import DatabaseListener
from picture_queue.local.gateway.realtime.replay import History
from picture_queue.local.gateway.realtime.socket import SharedParts, Socket
from picture_queue.local.gateway.settings import FRAME_LIMIT, GatewaySettings
from picture_queue.local.origin_check import is_loopback_origin

_START_TIMEOUT = 15.0  # seconds until the first LISTEN


class RealtimeService:
    """The WebSockets of Realtime and the parts that they share."""

    def __init__(
        self, settings: GatewaySettings, credentials: Credentials, database: Database
    ) -> None:
        self._credentials = credentials
        self._hub = Hub()
        self._access = Access(database)
        self._quota = Quota(settings.realtime_limits)
        self._listener = DatabaseListener(settings.realtime_database_url, self._hub, self._quota)
        self._shared = SharedParts(
            credentials,
            self._hub,
            self._access,
            History(database),
            self._listener,
            self._quota,
            settings.subscriber_queue,
        )
        self._sockets: set[Socket] = set()
        self._network_cut = False

    def set_faults(self, faults: Faults) -> None:
        """Set the fault switches that every delivery reads; called once, at the start."""
        self._hub.set_faults(faults)

    def routes(self) -> list[BaseRoute]:
        """The HTTP routes. The route of the WebSocket has the endpoint `websocket`."""
        base = "/realtime/v1/api/broadcast"
        return [
            Route(base, self._send_many, methods=["POST"]),
            Route(base + "/{topic:path}/events/{event}", self._send_one, methods=["POST"]),
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen to the database for the duration of the block.

        Raises:
            TimeoutError: The database did not accept a LISTEN within 15 seconds.
        """
        listening = asyncio.create_task(self._listener.run())
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self._listener.connected.wait()
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            for socket in tuple(self._sockets):
                socket.drop(1001)

    async def on_faults_changed(self, switches: Switches) -> None:
        """Apply the changed fault switches to the open sockets; called after each change."""
        self._network_cut = switches.network_cut
        for socket in tuple(self._sockets):
            if switches.network_cut:
                socket.drop()
            elif switches.close_channels:
                socket.close_channels(switches.close_channels, "Closed by a fault switch")

    async def websocket(self, websocket: WebSocket) -> None:
        """Serve ``WS /realtime/v1/websocket``."""
        key_token = self._key_token(websocket)
        version = websocket.query_params.get("vsn", versions.OBJECTS)
        refusal = self._refusal(websocket, version)
        # Uvicorn logs the URL with its query, and logs must not contain keys.
        websocket.scope["query_string"] = b""
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        await websocket.accept()
        origin = websocket.headers.get("origin")
        socket = Socket(
            websocket,
            key_token,
            version,
            self._shared,
            allows_service_role=origin is None or is_loopback_origin(origin),
        )
        self._sockets.add(socket)
        try:
            await socket.run()
        finally:
            self._sockets.discard(socket)

    def _refusal(self, websocket: WebSocket, version: str) -> Response | None:
        if self._network_cut:
            return JSONResponse(
                {"message": "The network is cut by a fault switch"}, status_code=503
            )
        if version not in (versions.OBJECTS, versions.ARRAYS):
            return not_implemented(f"Realtime protocol version {version}")
        return refuse_without_key(websocket, self._credentials)

    def _key_token(self, websocket: WebSocket) -> str:
        """Return the JWT that the API key stands for; a join may have the JWT of a user instead."""
        key = read_key(websocket)
        authorization = None if key else websocket.headers.get("authorization")
        return self._credentials.token(authorization, key) or ""

    async def _send_many(self, request: Request) -> Response:
        """Send several messages, except private messages that the caller may not send."""
        caller = self._caller(request)
        if caller is None:
            return JSONResponse({"message": "Unauthorized"}, status_code=401)
        try:
            body = json_body.parse(await json_body.receive(request, FRAME_LIMIT))
            messages = [_parse_message(message) for message in body["messages"]]
        except (ValueError, TypeError, KeyError, AttributeError):
            errors = {"messages": ["each needs a topic, an event and a payload object"]}
            return JSONResponse({"errors": errors}, status_code=422)
        texts = [_frame(topic, event, payload) for topic, event, payload, _ in messages]
        refusal = self._check_limits(caller, texts)
        if refusal is not None:
            return refusal
        for (topic, _, _, private), text in zip(messages, texts, strict=True):
            if not private or await self._may_write(caller, topic):
                self._hub.publish(topic, private, text)
        return Response(status_code=202)

    async def _send_one(self, request: Request) -> Response:
        caller = self._caller(request)
        if caller is None:
            return JSONResponse({"message": "Unauthorized"}, status_code=401)
        if request.headers.get("content-type", "").startswith("application/octet-stream"):
            return not_implemented("binary broadcasts")
        topic, event = request.path_params["topic"], request.path_params["event"]
        private = request.query_params.get("private") == "true"
        try:
            payload = json_body.parse(await json_body.receive(request, FRAME_LIMIT))
        except ValueError:
            return JSONResponse({"message": "the body is not JSON"}, status_code=422)
        if private and not await self._may_write(caller, topic):
            return JSONResponse({"message": "Unauthorized"}, status_code=403)
        text = _frame(topic, event, payload)
        refusal = self._check_limits(caller, [text])
        if refusal is None:
            self._hub.publish(topic, private, text)
        return refusal or Response(status_code=202)

    def _check_limits(self, caller: Caller, texts: list[str]) -> Response | None:
        if any(map(self._quota.is_too_large, texts)):
            errors = {"messages": ["Payload size exceeds the limit"]}
            return JSONResponse({"errors": errors}, status_code=422)
        if not self._quota.messages.take((caller.role, caller.subject), len(texts)):
            return JSONResponse({"message": "Too many messages per second"}, status_code=429)
        return None

    def _caller(self, request: Request) -> Caller | None:
        authorization = request.headers.get("authorization")
        token = self._credentials.token(authorization, read_key(request))
        try:
            return self._credentials.verify(token or "")
        except InvalidToken:
            return None

    async def _may_write(self, caller: Caller, topic: str) -> bool:
        try:
            return await self._access.can_write(caller, topic)
        except asyncpg.PostgresError:
            return False


def _frame(topic: str, event: str, payload: object) -> str:
    return frames.broadcast(topic, event, payload, str(uuid.uuid4()))


def _parse_message(message: dict[str, Any]) -> tuple[str, str, dict[str, Any], bool]:
    topic, event, payload = message["topic"], message["event"], message["payload"]
    if not (isinstance(topic, str) and isinstance(event, str) and isinstance(payload, dict)):
        raise TypeError
    return topic, event, payload, bool(message.get("private"))
