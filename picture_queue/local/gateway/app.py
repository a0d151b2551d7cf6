"""The app of the gateway: its services, the check of keys, CORS, faults and missing features."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from picture_queue.local import json_body
from picture_queue.local.gateway import api_key, missing
from picture_queue.local.gateway.auth.service import AuthService
from picture_queue.local.gateway.credentials import Credentials
from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.faults import FAULTS_PATH, Faults
from picture_queue.local.gateway.http_sender import HttpSender
from picture_queue.local.gateway.realtime.service import RealtimeService
from picture_queue.local.gateway.rest import RestProxy
from picture_queue.local.gateway.settings import GatewaySettings
from picture_queue.local.gateway.storage.service import StorageService
from picture_queue.local.origin_check import OriginCheck

_ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_ADMIN = "/auth/v1/admin"


def create_app(settings: GatewaySettings) -> OriginCheck:
    """Create the gateway. Its lifespan opens and closes all connections, so the server must run it.

    Args:
        settings: Addresses, keys and limits.
    """
    credentials = Credentials(settings)
    # Each service has its own database role. No role is a superuser, since code of users runs in
    # the sessions of the services.
    auth_database = Database(settings.auth_database_url)
    realtime_database = Database(settings.realtime_database_url)
    storage_database = Database(settings.storage_database_url)
    realtime = RealtimeService(settings, credentials, realtime_database)
    faults = Faults(credentials, realtime.on_faults_changed)
    realtime.set_faults(faults)
    rest = RestProxy(settings.postgrest_socket, credentials, faults)
    storage = StorageService(settings, credentials, storage_database)
    auth = AuthService(settings, credentials, auth_database)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for database in (auth_database, realtime_database, storage_database):
                await database.open()
                stack.push_async_callback(database.close)
            stack.push_async_callback(rest.close)
            await stack.enter_async_context(realtime.running())
            await stack.enter_async_context(HttpSender(realtime_database).running())
            storage.open()
            yield

    app = Starlette(
        lifespan=lifespan,
        exception_handlers={json_body.BodyTooLarge: _refuse_body},
        routes=[
            WebSocketRoute("/realtime/v1/websocket", realtime.websocket),
            *realtime.routes(),
            *auth.routes(),
            Route(FAULTS_PATH, faults.endpoint, methods=["GET", "POST", "DELETE"]),
            Route("/{path:path}", missing.endpoint, methods=_ANY_METHOD),
        ],
    )
    services: dict[str, ASGIApp] = {"/rest/v1/": rest, "/storage/v1/": storage}
    router = _Router(app, services, credentials, faults)
    return OriginCheck(
        # `OriginCheck` refuses foreign origins, so CORS may allow all origins.
        CORSMiddleware(
            router,
            allow_origins=["*"],
            allow_methods=_ANY_METHOD,
            allow_headers=["*"],
            expose_headers=[
                *("Content-Range", "Content-Profile", "Location", "ETag", "Link", "X-Total-Count"),
            ],
            max_age=3600,
        ),
        url=settings.api_url,
        allowed_origins=settings.allowed_origins,
        pictures="/storage/v1/object/",
        is_privileged=lambda scope: _is_privileged(scope, credentials),
    )


async def _refuse_body(_: Request, error: Exception) -> Response:
    # The client libraries of Supabase read different keys of an error body: send them all.
    message = str(error)
    code = "request_too_large"
    body = {"code": code, "error_code": code, "error": code, "message": message, "msg": message}
    return JSONResponse(body, 413)


def _is_privileged(scope: Scope, credentials: Credentials) -> bool:
    """Return whether a request is for fault switches or admin routes, or has a service key."""
    request = HTTPConnection(scope)
    keys = [request.headers.get(name) for name in ("apikey", "authorization")]
    return scope["path"].startswith((FAULTS_PATH, _ADMIN)) or any(
        map(credentials.acts_as_service, [*keys, request.query_params.get("apikey")])
    )


class _Router:
    """ASGI app that passes each request with a valid key to its service.

    PostgREST and Storage need the undecoded path, so the router checks only the prefix of the path.
    """

    def __init__(
        self,
        default: ASGIApp,
        services: dict[str, ASGIApp],
        credentials: Credentials,
        faults: Faults,
    ) -> None:
        self._default = default
        self._services = services
        self._credentials = credentials
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._default
        if scope["type"] == "http":
            path: str = scope["path"]
            for prefix, service in self._services.items():
                if path.startswith(prefix):
                    app = service
            refusal: JSONResponse | None = None
            if api_key.needs_key(path):
                refusal = api_key.refuse_without_key(HTTPConnection(scope), self._credentials)
            if refusal is not None:
                app = refusal
            elif path != FAULTS_PATH and self._faults.take("answer_503", path):
                app = JSONResponse({"message": "Service Unavailable"}, status_code=503)
        await app(scope, receive, send)
