"""``/rest/v1``: a streaming proxy to PostgREST that only exchanges the key."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from picture_queue.local.gateway.api_key import given_key
from picture_queue.local.gateway.credentials import Credentials
from picture_queue.local.gateway.faults import Faults
from picture_queue.local.gateway.rest_tokens import RefusedToken, check
from picture_queue.local.gateway.upstream import (
    BodyCutShort,
    Exchange,
    Headers,
    Upstream,
    UpstreamError,
)

PREFIX: Final = b"/rest/v1"

# RFC 9110, section 7.6.1: these belong to one connection. `transfer-encoding` stays in requests,
# where it tells that the body comes without a length; the body is framed anew.
_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
     b"upgrade", b"expect"}
)  # fmt: skip
# The token of the key is all that PostgREST needs; SQL could read the key in `request.headers`.
_NOT_FORWARDED: Final = _HOP_BY_HOP | {b"authorization", b"apikey"}
# The bundled PostgREST changes at most `limit` rows; the platform's looks at the filters alone.
# What deletes one row here must not delete all of them there, so it does so here as well.
_CHANGES: Final = frozenset({"PATCH", "DELETE"})
_LIMITS: Final = frozenset({b"limit", b"offset"})
_KEY: Final = frozenset({b"apikey"})
# The server in front writes its own Date and Server.
_NOT_RETURNED: Final = _HOP_BY_HOP | {b"transfer-encoding", b"date", b"server"}


class _RestJson(JSONResponse):
    media_type = "application/json; charset=utf-8"


class RestProxy:
    """ASGI app below `PREFIX`, for requests that have a key."""

    def __init__(self, postgrest: Path, credentials: Credentials, faults: Faults) -> None:
        self._upstream = Upstream(postgrest)
        self._credentials = credentials
        self._faults = faults

    async def close(self) -> None:
        """Close the connections to PostgREST."""
        await self._upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        given: Headers = scope["headers"]
        request = HTTPConnection(scope)
        authorization = request.headers.get("authorization")
        token = self._credentials.token(authorization, given_key(request)) or ""
        try:
            check(self._credentials, token)
        except RefusedToken as error:
            challenge = {"WWW-Authenticate": error.challenge}
            await _RestJson(error.body(), 401, challenge)(scope, receive, send)
            return
        headers = [(name, value) for name, value in given if name not in _NOT_FORWARDED]
        # PostgREST reads headers as UTF-8 and fails, or breaks the connection, where they are not.
        for name, value in headers:
            if not _is_utf8(value):
                message = f"The header {name.decode('latin-1')} is not UTF-8"
                hint = "Send its value in UTF-8."
                await _bad_request(message, hint)(scope, receive, send)
                return
        headers.append((b"authorization", b"Bearer " + token.encode()))
        await self._forward(headers, scope, receive, send)

    async def _forward(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with self._upstream.exchange() as exchange:
                method = scope["method"].encode()
                await exchange.send(method, _target(scope), headers, _pieces(receive))
                if method != b"GET" and self._faults.take("cut_after_commit", scope["path"]):
                    await _cut(exchange, send)
                    return
                await _pass_on(exchange, start)
        except ClientDisconnect:
            return
        except BodyCutShort:
            # The server in front drops the body of a request with the header Upgrade.
            hint = "Send the body whole, and no header Upgrade."
            message = "The body is shorter than Content-Length"
            await _bad_request(message, hint)(scope, receive, send)
        except (UpstreamError, TimeoutError) as error:
            if started:
                raise  # the head is out: only breaking the connection can tell the client
            await _unavailable(error)(scope, receive, send)


def _target(scope: Scope) -> bytes:
    path: bytes = scope["raw_path"].removeprefix(PREFIX) or b"/"
    parts = scope["query_string"].split(b"&")
    dropped = _KEY | _LIMITS if scope["method"] in _CHANGES else _KEY
    query = b"&".join(part for part in parts if _name(part) not in dropped)
    return path + b"?" + query if query else path


def _name(parameter: bytes) -> bytes:
    return unquote_to_bytes(parameter.partition(b"=")[0])


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _pass_on(exchange: Exchange, send: Send) -> None:
    headers = [header for header in exchange.headers if header[0] not in _NOT_RETURNED]
    # A function may raise PT999; no server of ours can send such a status.
    status = exchange.status if exchange.status < 600 else 500
    await send({"type": "http.response.start", "status": status, "headers": headers})
    last = b""
    async for piece in exchange.body():
        if last:
            await send({"type": "http.response.body", "body": last, "more_body": True})
        last = piece
    await send({"type": "http.response.body", "body": last})


async def _cut(exchange: Exchange, send: Send) -> None:
    """Let PostgREST finish, then break off: send less than the announced length."""
    async for _ in exchange.body():
        pass
    headers = [(b"content-length", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": True})


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except ValueError:
        return False
    return True


def _bad_request(message: str, hint: str) -> JSONResponse:
    body = {"code": "PGRST100", "details": None, "hint": hint, "message": message}
    return _RestJson(body, 400)


def _unavailable(error: Exception) -> JSONResponse:
    late = isinstance(error, TimeoutError)
    body = {
        "code": "PGRST003" if late else "PGRST000",
        "details": str(error) or None,
        "hint": None,
        "message": "PostgREST did not answer in time" if late else "PostgREST is not there",
    }
    return _RestJson(body, 504 if late else 503)
