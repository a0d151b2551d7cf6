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


def respond_to_error(error: Exception, **fields: Any) -> Response:
    """Return the response for an error.

    It has the fields and the text ``error``. An error that the database raised, or that has the
    meaning of such an error, also has the stable ``code``, and if there are any ``detail`` and
    ``hint``. The response has no text of an unexpected error, which is logged.
    """
    status, content, headers = _describe(error)
    return respond(fields | content, status, **headers)


def _describe(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return the status, the content and the headers of the response for an error."""
    if isinstance(error, BodyRefused):
        code = {413: "PQ_TOO_LARGE", 503: "PQ_BUSY"}.get(error.status, "PQ_INVALID_ARGUMENT")
        return error.status, {"error": str(error), "code": code}, {}
    if isinstance(error, KeysUnavailable | ConnectionFailed | TimeoutError | Busy):
        headers = _retry_after(error) if isinstance(error, Busy) else {}
        return 503, {"error": _UNAVAILABLE, "code": "PQ_BUSY"}, headers
    if isinstance(error, NotAuthenticated):
        # The detail may be a message of PostgREST about the app's own key.
        content = {"error": error.message, "code": NotAuthenticated.code}
        return 401, content, {"WWW-Authenticate": "Bearer"}
    if isinstance(error, PictureQueueError) and error.code in BY_CODE and error.http_status:
        parts = {"code": error.code, "detail": error.detail, "hint": error.hint}
        content = {"error": error.message} | {key: part for key, part in parts.items() if part}
        return error.http_status, content, _retry_after(error)
    _log.error("A request failed", exc_info=error)
    return 500, {"error": "The request failed; the log of the server has the reason"}, {}


def _retry_after(error: PictureQueueError) -> dict[str, str]:
    seconds = error.retry_after
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


async def respond_to_http_error(_: Request, error: Exception) -> Response:
    """Return the response for a path that does not exist, or a method that it does not have."""
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette passes only these
    return respond({"error": error.detail}, error.status_code, **dict(error.headers or {}))
