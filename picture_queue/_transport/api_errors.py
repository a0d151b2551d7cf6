"""Errors of the HTTP API as the exceptions of this library."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from pydantic_core import from_json

from picture_queue._retry_after import parse_retry_after
from picture_queue._transport.base import Deadline, FunctionMissing, translate_server_code
from picture_queue.errors import (
    AuthenticationFailed,
    Busy,
    ConnectionFailed,
    NotAllowed,
    NotFound,
    PictureQueueError,
    ServerError,
    SettingsError,
    TooLarge,
)

_SERVER_CODE = re.compile(r"PGRST\w+|[0-9A-Z]{5}")
_NO_SUCH_PATH = "PGRST125"
# Storage answers HTTP 400 to nearly everything; the meaning is in statusCode of the body.
_BY_STORAGE_STATUS: dict[str, type[PictureQueueError]] = {
    "401": AuthenticationFailed,
    "403": NotAllowed,
    "404": NotFound,
    "413": TooLarge,
    "429": Busy,
}


@contextmanager
def needs_usable_environment() -> Iterator[None]:
    """Name the variables that httpx reads, where it cannot use one of them.

    Raises:
        SettingsError: It cannot.
    """
    try:
        yield
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise SettingsError(
            "The proxy or the certificates of the environment cannot be used",
            detail=str(error),
            hint="Check ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
        ) from error


def translate_error(error: Exception, url: str, deadline: Deadline | None = None) -> Exception:
    """Return the exception of this library for a call that got no readable answer.

    Args:
        error: What supabase-py, httpx or a library below raised.
        url: The project's address, for the message.
        deadline: The bound of the call.
    """
    if isinstance(error, PictureQueueError | FunctionMissing):
        return error
    if isinstance(error, httpx.TimeoutException) and deadline is not None:
        reason = f"no answer in {deadline.timeout:g} s"
    else:
        reason = str(error) or type(error).__name__
    # Whatever it is: h2 raises a KeyError where its connection has ended, for example.
    return ConnectionFailed(
        f"{url} does not answer",
        detail=reason,
        hint="Check SUPABASE_URL and that the project (or picture-queue local) is running",
    )


def translate_response(response: httpx.Response, content: bytes, url: str) -> Exception:
    """Return the exception for an answer that is not a result.

    Args:
        response: Its status and headers.
        content: Its body.
        url: The project's address, for the message.
    """
    body = _json_object(content)
    error = _by_storage(body) or _by_body(body, url) or _by_status(response, body, url)
    if isinstance(error, Busy):
        error.retry_after = parse_retry_after(response.headers.get("retry-after"))
    return error


def _by_storage(body: dict[str, Any]) -> PictureQueueError | None:
    """Read what Storage says; None where the answer is somebody else's."""
    status = str(body.get("statusCode") or "")
    if not status:
        return None
    kind = Busy if status[:1] == "5" else _BY_STORAGE_STATUS.get(status, ServerError)
    return kind(f"Storage refused: {body.get('message')}", code=str(body.get("error")))


def _by_body(body: dict[str, Any], url: str) -> Exception | None:
    """Read what PostgREST or the database says; None where the answer is somebody else's."""
    code, message = str(body.get("code") or ""), str(body.get("message") or "")
    if code in ("PGRST202", "42883"):  # the second where the API remembers a function that is gone
        return FunctionMissing(message)
    if _SERVER_CODE.fullmatch(code) and code != _NO_SUCH_PATH:
        return translate_server_code(code, message, body.get("details"), body.get("hint"))
    if "API key" in message:
        return _authentication_failed(url, message)
    return None


def _by_status(response: httpx.Response, body: dict[str, Any], url: str) -> PictureQueueError:
    status = response.status_code
    code, detail = str(status), f"HTTP {status} {response.reason_phrase}".rstrip()
    # Another API, at a wrong address, refuses the key as well, but not in the words of Supabase.
    if status in (401, 403) and (not body or body.keys() & {"message", "msg", "error"}):
        return _authentication_failed(url, str(body.get("message") or detail))
    if status == 413:
        return TooLarge(f"The call is larger than {url} accepts", code=code, detail=detail)
    if status == 429:
        return Busy(
            f"{url} limits the rate of calls",
            code=code,
            detail=detail,
            hint="Make fewer calls, or raise the limit of the project",
        )
    if status >= 500 or status == 408:
        return Busy(f"{url} is not available now", code=code, detail=detail)
    return ConnectionFailed(
        f"{url} does not answer like a Supabase project",
        detail=detail,
        hint="Check SUPABASE_URL: it is the project's base address, without a path",
    )


def _authentication_failed(url: str, message: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"{url} refused the key", detail=message, hint="Check the key: picture-queue local status"
    )


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        body = from_json(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
