"""``/rest/v1``: a streaming proxy to PostgREST, which replaces an API key with the key's JWT."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from picture_queue.local.gateway.api_key import read_key
from picture_queue.local.gateway.credentials import Credentials
from picture_queue.local.gateway.faults import Faults
from picture_queue.local.gateway.rest_tokens import RefusedToken, check_token
from picture_queue.local.gateway.upstream import (
    Headers,
    IncompleteBody,
    Upstream,
    UpstreamConnection,
    UpstreamError,
)
from picture_queue.local.json_body import BodyTooLarge

PREFIX: Final = b"/rest/v1"

# Maximum number of requests of users that PostgREST runs at once. PostgREST has 10 connections to
# the database. Two of them are reserved for service keys, so that slow users do not stop the
# workers.
_USER_REQUESTS: Final = 8
_ACQUIRE_TIMEOUT: Final = 10.0  # seconds; PostgREST waits as long for a connection

#: Maximum bytes of a body. PostgREST reads the whole body before it checks a privilege.
BODY_LIMIT: Final = 128 * 1024 * 1024

# These headers belong to one connection (RFC 9110, section 7.6.1). `transfer-encoding` is not in
# the set, because `UpstreamConnection.send` reads this header and frames the body anew.
_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
     b"upgrade", b"expect"}
)  # fmt: skip
# PostgREST needs only the token of the key. SQL could read the key in `request.headers`.
_NOT_FORWARDED: Final = _HOP_BY_HOP | {b"authorization", b"apikey"}
# The bundled PostgREST changes at most `limit` rows. Supabase's PostgREST changes all rows that
# match the filters. The gateway drops `limit`, so that a call has the same effect on both.
_CHANGING_METHODS: Final = frozenset({"PATCH", "DELETE"})
_LIMITS: Final = frozenset({b"limit", b"offset"})
_KEY: Final = frozenset({b"apikey"})
# Uvicorn adds its own headers Date and Server.
_NOT_RETURNED: Final = _HOP_BY_HOP | {b"transfer-encoding", b"date", b"server"}


class _RestJson(JSONResponse):
    media_type = "application/json; charset=utf-8"


class RestProxy:
    """ASGI app below `PREFIX`. The gateway has checked that requests have a key."""

    def __init__(self, postgrest: Path, credentials: Credentials, faults: Faults) -> None:
        self._upstream = Upstream(postgrest)
        self._credentials = credentials
        self._faults = faults
        self._user_slots = asyncio.Semaphore(_USER_REQUESTS)

    async def close(self) -> None:
        """Close the connections to PostgREST."""
        await self._upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = HTTPConnection(scope)
        authorization = request.headers.get("authorization")
        token = self._credentials.token(authorization, read_key(request)) or ""
        try:
            claims = check_token(self._credentials, token)
        except RefusedToken as error:
            challenge = {"WWW-Authenticate": error.challenge}
            await _RestJson(error.body(), 401, challenge)(scope, receive, send)
            return
        headers: Headers = [
            (name, value) for name, value in scope["headers"] if name not in _NOT_FORWARDED
        ]
        # PostgREST fails or breaks the connection if a header is not UTF-8.
        for name, value in headers:
            if not _is_utf8(value):
                message = f"The header {name.decode('latin-1')} is not UTF-8"
                hint = "Send its value in UTF-8."
                await _bad_request(message, hint)(scope, receive, send)
                return
        headers.append((b"authorization", b"Bearer " + token.encode()))
        slots = None if claims.get("role") == "service_role" else self._user_slots
        await self._forward(headers, slots, scope, receive, send)

    async def _forward(
        self,
        headers: Headers,
        slots: asyncio.Semaphore | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        started = False

        async def start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with self._upstream.exchange() as exchange:
                method = scope["method"].encode()
                # PostgREST starts when it has the whole body, and answers after its transaction.
                # So a slot is taken before the last piece of the body, and released when the head
                # of the answer arrives. A client that sends or reads slowly holds no slot.
                async with contextlib.AsyncExitStack() as slot:
                    pieces = _stream_body(receive, lambda: _acquire(slots, slot))
                    await exchange.send(method, _build_target(scope), headers, pieces)
                if method != b"GET" and self._faults.take("cut_after_commit", scope["path"]):
                    await _abort_response(exchange, send)
                    return
                await _forward_answer(exchange, start)
        except ClientDisconnect:
            return
        except IncompleteBody:
            # Uvicorn drops the body of a request with the header Upgrade.
            hint = "Send the body whole, and no header Upgrade."
            message = "The body is shorter than Content-Length"
            await _bad_request(message, hint)(scope, receive, send)
        except BodyTooLarge as error:
            body = {"code": "request_too_large", "details": None, "hint": None}
            await _RestJson(body | {"message": str(error)}, 413)(scope, receive, send)
        except (UpstreamError, TimeoutError) as error:
            if started:
                # The head has been sent. Only a broken connection can tell the client of the error.
                raise
            await _unavailable(error)(scope, receive, send)


def _build_target(scope: Scope) -> bytes:
    path: bytes = scope["raw_path"].removeprefix(PREFIX) or b"/"
    parts = scope["query_string"].split(b"&")
    dropped = _KEY | _LIMITS if scope["method"] in _CHANGING_METHODS else _KEY
    query = b"&".join(part for part in parts if _parameter_name(part) not in dropped)
    return path + b"?" + query if query else path


def _parameter_name(parameter: bytes) -> bytes:
    return unquote_to_bytes(parameter.partition(b"=")[0])


async def _acquire(slots: asyncio.Semaphore | None, slot: contextlib.AsyncExitStack) -> None:
    """Acquire a slot, which the exit stack `slot` releases; without `slots`, do nothing."""
    if slots is not None:
        async with asyncio.timeout(_ACQUIRE_TIMEOUT):
            await slot.enter_async_context(slots)


async def _stream_body(
    receive: Receive, before_last: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    more = True
    length = 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        length += len(piece)
        if length > BODY_LIMIT:
            raise BodyTooLarge(BODY_LIMIT)
        more = message.get("more_body", False)
        if not more:
            await before_last()
        yield piece


async def _forward_answer(exchange: UpstreamConnection, send: Send) -> None:
    headers = [header for header in exchange.headers if header[0] not in _NOT_RETURNED]
    # A function may raise PT999, which uvicorn cannot send.
    status = exchange.status if exchange.status < 600 else 500
    await send({"type": "http.response.start", "status": status, "headers": headers})
    # Hold back one piece, since the last message must be marked as the last.
    held_back = b""
    async for piece in exchange.body():
        if held_back:
            await send({"type": "http.response.body", "body": held_back, "more_body": True})
        held_back = piece
    await send({"type": "http.response.body", "body": held_back})


async def _abort_response(exchange: UpstreamConnection, send: Send) -> None:
    """Wait until PostgREST has answered, then break the response off.

    The response has less bytes than its Content-Length, so uvicorn closes the connection.
    """
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
    timed_out = isinstance(error, TimeoutError)
    message = "PostgREST did not answer in time" if timed_out else "PostgREST cannot be reached"
    body = {
        "code": "PGRST003" if timed_out else "PGRST000",
        "details": str(error) or None,
        "hint": None,
        "message": message,
    }
    return _RestJson(body, 504 if timed_out else 503)
