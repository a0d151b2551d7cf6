"""``POST /start-generation``: start a generation of a signed-in user."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import from_json
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from picture_queue._async.client import AsyncPictureQueue
from picture_queue._rpc import Rpc
from picture_queue._rpc import generations as _rpc
from picture_queue.errors import InvalidArgument, TooManyGenerations
from picture_queue.web.body import BodyReader
from picture_queue.web.responses import respond, respond_to_error
from picture_queue.web.settings import WebSettings
from picture_queue.web.tokens import TokenVerifier, read_user_id

_MAX_BYTES = 1024 * 1024  # of a body; the database accepts inputs of 64 KiB by default
_MAX_TOTAL_BYTES = 32 * 1024 * 1024  # of all bodies that are being received; see `BodyReader`
_MAX_CALLS = 64  # calls of the database at the same time
_MAX_USER_CALLS = 16  # of these, calls of one user, with those that wait
_RETRY_AFTER = 1.0  # seconds, for a user with more calls
_TIMEOUT = 10.0  # seconds for the call of the database
_PREFLIGHT_SECONDS = 3600  # for which a browser keeps the answer to a preflight
#: The fields of the body, which are the parameters of the SQL function, and their types.
_FIELDS: dict[str, tuple[type, str]] = {
    "prompt": (str, "text"),
    "model_id": (str, "text"),
    "input": (dict, "an object"),
    "options": (dict, "an object"),
}


class StartGeneration:
    """The route that starts generations.

    The body has the parameters of the SQL function ``start_generation``, and the answer is that of
    this function: ``{"generation_id": …, "job_id": …, "status": …}``. The call has the privileges
    of the user, so the database makes all checks as for a call from a browser.

    Args:
        client: A client with the URL of the project's API.
        tokens: The verifier of the user's token.
        settings: The origins of web pages that may call the route.
    """

    def __init__(
        self, client: AsyncPictureQueue, tokens: TokenVerifier, settings: WebSettings
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._calls = _CallSlots()
        self._bodies = BodyReader(_MAX_BYTES, _MAX_TOTAL_BYTES)
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
            max_age=_PREFLIGHT_SECONDS,
        )
        self.route = Route(
            "/start-generation", self._respond, methods=["POST", "OPTIONS"], middleware=[cors]
        )

    async def _respond(self, request: Request) -> Response:
        if request.method != "POST":  # OPTIONS without the headers of a preflight
            return Response(status_code=204, headers={"Allow": "POST, OPTIONS"})
        try:
            # Before the body is read, so that a caller without a token cannot send a large one.
            token = await self._tokens.verify(request.headers.get("authorization"))
            async with self._bodies.receive(request) as body:
                call = _parse_body(body)
            async with asyncio.timeout(_TIMEOUT), self._calls.take(read_user_id(token)):
                started = await self._client.as_user(token)._backend.call(call, _TIMEOUT)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            return respond_to_error(error)
        return respond(started)


class _CallSlots:
    """Slots for calls of the database, of which one user can take only a share.

    Without the share, the calls of a user with many connections would delay all other users.
    """

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_MAX_CALLS)
        self._user_calls: Counter[str] = Counter()  # only of users with calls

    @contextlib.asynccontextmanager
    async def take(self, user_id: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold it within the context.

        Raises:
            TooManyGenerations: The user has as many calls as the share.
        """
        if self._user_calls[user_id] >= _MAX_USER_CALLS:
            error = TooManyGenerations(
                "The user starts too many generations at the same time",
                detail=f"{_MAX_USER_CALLS} calls have not ended",
                hint="Start several generations in one call of start_generations",
            )
            error.retry_after = _RETRY_AFTER
            raise error
        self._user_calls[user_id] += 1
        try:
            async with self._slots:
                yield
        finally:
            self._user_calls[user_id] -= 1
            if not self._user_calls[user_id]:
                del self._user_calls[user_id]


def _parse_body(body: bytes) -> Rpc[dict[str, Any]]:
    """Return the call for a body.

    Raises:
        InvalidArgument: The body is not a JSON object, or a field is unknown or of another type.
    """
    try:
        fields = from_json(body)
    except ValueError as error:
        raise InvalidArgument("The body is not JSON", detail=str(error)[:200]) from None
    if not isinstance(fields, dict):
        raise InvalidArgument("The body is not a JSON object")
    for name, value in fields.items():
        if name not in _FIELDS:
            raise InvalidArgument(
                "The body has an unknown field",
                detail=f"{name[:100]!r}",
                hint=f"Use {', '.join(_FIELDS)}; further options belong into `options`",
            )
        type_, type_name = _FIELDS[name]
        if value is not None and not isinstance(value, type_):
            raise InvalidArgument(
                "A field of the body has the wrong type", detail=f"{name} is not {type_name}"
            )
    return _rpc.start_generation_from_json(
        fields.get("prompt") or "",
        fields.get("model_id"),
        fields.get("input"),
        fields.get("options"),
    )
