"""What the HTTP API says went wrong, as the exceptions of this library."""

import re

import httpx
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError

from picture_queue._transport.base import FunctionMissing, name_server_code
from picture_queue.errors import (
    AuthenticationFailed,
    Busy,
    ConnectionFailed,
    NotAllowed,
    NotFound,
    PictureQueueError,
    ServerError,
    TooLarge,
)

_SERVER_CODE = re.compile(r"PGRST\w+|[0-9A-Z]{5}")
# Storage answers HTTP 400 to nearly everything; the meaning is in statusCode of the body.
_BY_STORAGE_STATUS: dict[str, type[PictureQueueError]] = {
    "403": NotAllowed,
    "404": NotFound,
    "413": TooLarge,
    "429": Busy,
}


def name_error(error: Exception, url: str) -> Exception:
    """Returns the exception of this library for a failure of a call.

    Args:
        error: What supabase-py or httpx raised.
        url: The project's address, for the message.
    """
    if isinstance(error, APIError):
        return _name_api_error(error, url)
    if isinstance(error, httpx.HTTPError):
        reason = str(error) or type(error).__name__
        return ConnectionFailed(
            f"{url} does not answer",
            detail=reason,
            hint="Check SUPABASE_URL and that the project (or picture-queue local) is running",
        )
    if isinstance(error, StorageApiError):
        status = str(error.status)
        kind = Busy if status[:1] == "5" else _BY_STORAGE_STATUS.get(status, ServerError)
        return kind(f"Storage refused: {error.message}", code=error.code)
    return error


def _name_api_error(error: APIError, url: str) -> Exception:
    code, message = str(error.code or ""), error.message or ""
    if code in ("PGRST202", "42883"):  # the second where the API remembers a function that is gone
        return FunctionMissing(message)
    if _SERVER_CODE.fullmatch(code):
        return name_server_code(code, message, error.details, error.hint)
    if code in ("401", "403") or "API key" in message:
        return AuthenticationFailed(
            f"{url} refused the key",
            detail=message,
            hint="Check the key: picture-queue local status",
        )
    if code in ("503", "502", "504", "520"):
        return Busy(f"{url} is not available now", code=code, detail=message)
    return ConnectionFailed(
        f"{url} does not answer like a Supabase project",
        detail=f"HTTP {code}" if code else message,
        hint="Check SUPABASE_URL: it is the project's base address, without a path",
    )
