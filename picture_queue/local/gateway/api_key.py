"""The check of the API key, which requests need in addition to a user's token.

Like Supabase's gateway, this gateway checks the key before a service gets the request. So a
user's token alone gives no access, and a sign-up needs a key too
(https://github.com/supabase/supabase, ``docker/volumes/api/kong.yml``).
"""

from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from picture_queue.local.gateway.credentials import Credentials

_PROTECTED_PATHS: Final = ("/rest/v1/", "/auth/v1/", "/realtime/v1/")
# These paths need no key: links that a browser opens, the public keys that verify tokens, and the
# health check.
OPEN_PATHS: Final = (
    *("/auth/v1/verify", "/auth/v1/callback", "/auth/v1/authorize"),
    *("/auth/v1/.well-known/jwks.json", "/auth/v1/health"),
)
# Each is a message and a hint.
_NO_KEY: Final = (
    "No API key found in request",
    "No `apikey` request header or url param was found.",
)
_DUPLICATE_KEY: Final = ("Duplicate API key found", "Send one `apikey`.")
_INVALID_KEY: Final = (
    "Invalid API key",
    "Double check your Supabase `anon` or `service_role` API key.",
)


def read_key(request: HTTPConnection) -> str | None:
    """Return the key in the header `apikey`, otherwise in the query; None if there is none."""
    return next(iter(_read_keys(request)), None)


def _read_keys(request: HTTPConnection) -> list[str]:
    return request.headers.getlist("apikey") or request.query_params.getlist("apikey")


def refuse_without_key(request: HTTPConnection, credentials: Credentials) -> JSONResponse | None:
    """Return the answer 401 for a request without a key of this stack; None if it has a key.

    A key in `Authorization` is accepted too. On Supabase only Storage accepts a key there.
    """
    keys = _read_keys(request)
    if not keys:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and credentials.is_key(token.strip()):
            return None
        message, hint = _NO_KEY
    elif len(keys) > 1:
        message, hint = _DUPLICATE_KEY
    elif credentials.is_key(keys[0]):
        return None
    else:
        message, hint = _INVALID_KEY
    headers = {"WWW-Authenticate": "Key"}
    return JSONResponse({"message": message, "hint": hint}, 401, headers)


def needs_key(path: str) -> bool:
    """Return whether the gateway checks the key for a path. Storage checks keys itself."""
    return path.startswith(_PROTECTED_PATHS) and not path.startswith(OPEN_PATHS)
