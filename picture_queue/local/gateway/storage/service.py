"""The routes of Storage."""

import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import asyncpg
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from picture_queue.local.gateway.api_key import read_key, refuse_without_key
from picture_queue.local.gateway.credentials import Credentials, InvalidToken
from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.missing import not_implemented
from picture_queue.local.gateway.settings import GatewaySettings
from picture_queue.local.gateway.storage.buckets import BucketRoutes
from picture_queue.local.gateway.storage.errors import (
    StorageError,
    access_denied,
    database_unavailable,
    from_database,
    invalid,
    token_message,
)
from picture_queue.local.gateway.storage.files import FileStore
from picture_queue.local.gateway.storage.moving import MoveRoutes
from picture_queue.local.gateway.storage.objects import ObjectRoutes
from picture_queue.local.gateway.storage.signing import Signer
from picture_queue.local.gateway.storage.tables import StorageTables

_PREFIX: Final = b"/storage/v1"
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BEARER: Final = re.compile("^bearer ?", re.IGNORECASE)
_ALL_METHODS: Final = "GET HEAD POST PUT PATCH DELETE OPTIONS"


class StorageJson(JSONResponse):
    """JSON with the content type of storage-api."""

    media_type = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Route:
    """An entry of the routing table.

    Args:
        methods: HTTP methods, separated by spaces.
        pattern: Path segments; ``{}`` matches one segment, a final ``*`` all remaining segments.
        handler: Called with the request and the matched segments, decoded.
        missing: The feature that the answer 501 names as missing; empty for other routes.
    """

    methods: str
    pattern: str
    handler: Callable[..., Awaitable[Response]]
    missing: str = ""

    def match(self, method: str, segments: list[bytes]) -> list[str] | None:
        """Return the segments of ``{}`` and ``*``; None if the route does not match."""
        if method not in self.methods.split():
            return None
        parts = self.pattern.split("/")
        values: list[str] = []
        for position, part in enumerate(parts):
            if part == "*":
                rest = b"/".join(segments[position:])
                return [*values, unquote(rest.decode())] if len(segments) > position else None
            if position >= len(segments):
                return None
            segment = unquote(segments[position].decode())
            if part == "{}":
                values.append(segment)
            elif part != segment:
                return None
        return values if len(segments) == len(parts) else None


class StorageService:
    """ASGI app below ``/storage/v1``."""

    def __init__(
        self, settings: GatewaySettings, credentials: Credentials, database: Database
    ) -> None:
        self._credentials = credentials
        self._files = FileStore(settings.storage_dir)
        tables = StorageTables(database)
        self._buckets = BucketRoutes(tables, self._files, settings.file_size_limit)
        self._moving = MoveRoutes(tables, self._files)
        self._objects = ObjectRoutes(
            tables,
            self._files,
            Signer(settings.jwt_secret, credentials),
            settings.file_size_limit,
        )
        self._routes = self._build_routes()

    def open(self) -> None:
        """Create the directories of the files."""
        self._files.open()

    def _build_routes(self) -> tuple[Route, ...]:
        """Return the routes; the first match counts."""
        objects, required, optional = self._objects, self._token_required, self._token_optional
        return (
            Route("GET", "status", _status),
            Route("POST", "bucket", required(self._buckets.create)),
            Route("POST", "bucket/", required(self._buckets.create)),
            Route("GET", "bucket", required(self._buckets.list_all)),
            Route("GET", "bucket/", required(self._buckets.list_all)),
            Route("GET", "bucket/{}", required(self._buckets.get)),
            Route("PUT", "bucket/{}", required(self._buckets.update)),
            Route("DELETE", "bucket/{}", required(self._buckets.delete)),
            Route("POST", "bucket/{}/empty", required(self._buckets.empty)),
            Route("POST", "object/sign/{}", required(objects.sign_many)),
            Route("POST", "object/sign/{}/*", required(objects.sign)),
            Route("GET HEAD", "object/sign/{}/*", objects.signed),
            Route("POST", "object/list/{}", required(objects.list_folder)),
            Route("POST", "object/list-v2/{}", required(objects.list_page)),
            Route("POST", "object/move", required(self._moving.move)),
            Route("POST", "object/copy", required(self._moving.copy)),
            Route("POST", "object/upload/sign/{}/*", required(objects.sign_upload)),
            Route("PUT", "object/upload/sign/{}/*", _token_in_url(objects.store_signed)),
            Route("GET HEAD", "object/public/{}/*", objects.public),
            Route("GET HEAD", "object/authenticated/{}/*", required(objects.download)),
            Route("GET HEAD", "object/info/public/{}/*", objects.public_info),
            Route("GET HEAD", "object/info/authenticated/{}/*", required(objects.info)),
            Route("GET HEAD", "object/info/{}/*", optional(objects.info)),
            Route("DELETE", "object/{}", required(objects.remove)),
            Route("DELETE", "object/{}/*", required(objects.delete)),
            Route("POST PUT", "object/{}/*", required(objects.store)),
            Route("GET HEAD", "object/{}/*", optional(objects.download)),
            _missing_route("GET HEAD", "render/*", "image transformations"),
            _missing_route(_ALL_METHODS, "upload/resumable", "resumable uploads (TUS)"),
            _missing_route(_ALL_METHODS, "upload/resumable/*", "resumable uploads (TUS)"),
            _missing_route(_ALL_METHODS, "s3/*", "the S3 protocol"),
            _missing_route(_ALL_METHODS, "iceberg/*", "analytics buckets"),
            _missing_route(_ALL_METHODS, "vector/*", "vector buckets"),
            _missing_route(_ALL_METHODS, "cdn/*", "CDN"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request, scope["raw_path"].removeprefix(_PREFIX))
        except StorageError as error:
            response = StorageJson(error.body(), error.http)
        except asyncpg.PostgresError as error:
            failure = from_database(error, exists="ResourceAlreadyExists")
            response = StorageJson(failure.body(), failure.http)
        except ClientDisconnect:
            return
        except (OSError, TimeoutError, asyncpg.InterfaceError):
            failure = database_unavailable()
            response = StorageJson(failure.body(), failure.http)
        await response(scope, receive, send)

    async def _answer(self, request: Request, path: bytes) -> Response:
        shown = path.decode("latin-1")
        if _BAD_ESCAPE.search(path):
            body: dict[str, Any] = {
                "statusCode": 400,
                "code": "FST_ERR_BAD_URL",
                "error": "Bad Request",
                "message": f"'{shown}' is not a valid url component",
            }
            return JSONResponse(body, 400)
        segments = path.split(b"/")[1:]
        for route in self._routes:
            values = route.match(request.method, segments)
            if values is not None:
                return await route.handler(request, *values)
        if request.url.query:
            shown += "?" + request.url.query
        message = f"Route {request.method}:{shown} not found"
        body = {"statusCode": 404, "error": "Not Found", "message": message}
        if segments[0] not in (b"object", b"bucket"):
            return StorageJson(body, 404)
        return JSONResponse({**body, "statusCode": "404", "code": "InvalidRequest"}, 404)

    def _token_required(
        self, action: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Response]]:
        """Create the handler of an action that needs a valid token."""

        async def handler(request: Request, *segments: str) -> Response:
            refusal = self._check_key(request)
            if refusal is not None:
                return refusal
            token = self._token(request)
            if token is None:
                raise invalid("headers must have required property 'authorization'")
            try:
                caller = self._credentials.verify(token, leeway=0)
            except InvalidToken as error:
                raise access_denied(token_message(error)) from None
            return _to_response(await action(request, *segments, caller))

        return handler

    def _token_optional(
        self, action: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Response]]:
        """Create the handler of an action that sees only public buckets without a valid token."""

        async def handler(request: Request, *segments: str) -> Response:
            refusal = self._check_key(request)
            if refusal is not None:
                return refusal
            caller = None
            with contextlib.suppress(InvalidToken):
                caller = self._credentials.verify(self._token(request) or "", leeway=0)
            return _to_response(await action(request, *segments, caller))

        return handler

    def _check_key(self, request: Request) -> Response | None:
        """Return the answer 401 if a request has a token or key, but no key of this stack.

        A request without both is not refused here: public objects need no key.
        """
        if read_key(request) or "authorization" in request.headers:
            return refuse_without_key(request, self._credentials)
        return None

    def _token(self, request: Request) -> str | None:
        authorization = request.headers.get("authorization")
        value = _BEARER.sub("", authorization or "")
        if authorization is None or value.startswith("sb_"):
            return self._credentials.token(None, read_key(request) or value)
        return value


def _token_in_url(action: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Response]]:
    """Create the handler of an action that needs only the token in the URL."""

    async def handler(request: Request, *segments: str) -> Response:
        return _to_response(await action(request, *segments))

    return handler


def _to_response(result: object) -> Response:
    return result if isinstance(result, Response) else StorageJson(result)


async def _status(_: Request) -> Response:
    return Response()


def _missing_route(methods: str, pattern: str, feature: str) -> Route:
    async def handler(*_: object) -> Response:
        return not_implemented(f"Storage: {feature}")

    return Route(methods, pattern, handler, feature)
