"""Errors of Auth, with the messages of GoTrue."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

_VERSION_HEADER = "X-Supabase-Api-Version"
_VERSION = "2024-01-01"


class AuthError(Exception):
    """A request that Auth refuses.

    Args:
        status: HTTP status.
        code: Stable code, https://supabase.com/docs/guides/auth/debugging/error-codes.
        message: The message for the user.
        extra: Further keys of the body.
    """

    def __init__(self, status: int, code: str, message: str, **extra: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra

    def response(self, request: Request) -> JSONResponse:
        """Return the answer in the format of the API version that the client uses."""
        if request.headers.get(_VERSION_HEADER):
            body = {"code": self.code, "message": self.message, **self.extra}
            return JSONResponse(body, self.status, headers={_VERSION_HEADER: _VERSION})
        legacy = {"code": self.status, "error_code": self.code, "msg": self.message, **self.extra}
        return JSONResponse(legacy, self.status)
