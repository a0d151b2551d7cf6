"""The JSON responses of the routes, and the translation of errors into them."""

import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from picture_queue._log import Log
from picture_queue.errors import (
    BY_CODE,
    Busy,
    ConnectionFailed,
    NotAuthenticated,
    PictureQueueError,
)
from picture_queue.web.body import BodyRefused
from picture_queue.web.key_set import KeysUnavailable

_log = Log(__name__)

_NO_STORE = {"Cache-Control": "no-store"}
_UNAVAILABLE = "The project does not answer now; try again later"


def respond(content: dict[str, Any], status: int = 200, **headers: str) -> Response:
    """Return a JSON response that no cache keeps."""
    return JSONResponse(content, status, {**_NO_STORE, **headers})


def respond_to_error(error: Exception) -> Response:
    """Return the response for an error.

    It has the text ``error``. An error that the database raised, or that has the meaning of such an
    error, also has the stable ``code``, and if there are any ``detail`` and ``hint``. The response
    has no text of an unexpected error, which is logged.
    """
    if isinstance(error, BodyRefused):
        code = {413: "PQ_TOO_LARGE", 503: "PQ_BUSY"}.get(error.status, "PQ_INVALID_ARGUMENT")
        return respond({"error": str(error), "code": code}, error.status)
    if isinstance(error, KeysUnavailable | ConnectionFailed | TimeoutError):
        return respond({"error": _UNAVAILABLE, "code": "PQ_BUSY"}, 503)
    if isinstance(error, Busy):
        return respond({"error": _UNAVAILABLE, "code": "PQ_BUSY"}, 503, **_retry_after(error))
    if isinstance(error, NotAuthenticated):
        # The detail may be a message of PostgREST about the app's own key.
        content = {"error": error.message, "code": NotAuthenticated.code}
        return respond(content, 401, **{"WWW-Authenticate": "Bearer"})
    if isinstance(error, PictureQueueError) and error.code in BY_CODE and error.http_status:
        parts = {"code": error.code, "detail": error.detail, "hint": error.hint}
        content = {"error": error.message} | {key: part for key, part in parts.items() if part}
        return respond(content, error.http_status, **_retry_after(error))
    _log.error("A request failed", exc_info=error)
    return respond({"error": "The request failed; the log of the server has the reason"}, 500)


def _retry_after(error: PictureQueueError) -> dict[str, str]:
    seconds = error.retry_after
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


async def respond_to_http_error(_: Request, error: Exception) -> Response:
    """Return the response for a path that does not exist, or a method that it does not have."""
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette passes only these
    return respond({"error": error.detail}, error.status_code, **dict(error.headers or {}))
