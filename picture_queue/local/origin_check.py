"""A check that refuses requests of foreign web pages to the servers of the embedded stack.

Every page that a developer opens can send requests to loopback. The browser states which site a
request comes from: in ``Origin`` for each POST, preflight and WebSocket, in ``Sec-Fetch-Site`` for
all other requests. These headers do not reveal DNS rebinding, where a foreign host name resolves to
127.0.0.1, because the browser then sees one origin. But ``Host`` has the foreign name.
"""

import re
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from picture_queue._loopback import is_loopback
from picture_queue.errors import LocalStackError

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)
_ORIGIN: Final = re.compile(rf"https?://{_HOST.pattern}", re.IGNORECASE)


def is_origin(text: str) -> bool:
    """Return whether a text is an origin (scheme, host and port) as in the header ``Origin``."""
    return _ORIGIN.fullmatch(text) is not None


def is_loopback_origin(origin: str) -> bool:
    """Return whether the host of an origin is loopback."""
    match = _ORIGIN.fullmatch(origin)
    return match is not None and is_loopback(match[1])


class OriginCheck:
    """ASGI middleware that refuses requests and WebSockets of foreign pages with status 403.

    Args:
        app: The app that handles all other requests.
        url: The URL of the app; ``Host`` may be its host or loopback.
        allowed_origins: Further origins whose pages may call the app. ``Host`` may also be the host
            of one of these origins.
        pictures: Prefix of the public paths, which a page of any site may show or link to.
        is_privileged: A function that returns whether a request uses a service key, an admin route
            or a fault switch. Such a request is refused even to pages of `allowed_origins`.

    Raises:
        LocalStackError: One of `allowed_origins` is not an origin.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        url: str = "",
        allowed_origins: Collection[str] = (),
        pictures: str,
        is_privileged: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self.app = app
        for origin in allowed_origins:
            if not is_origin(origin):
                raise LocalStackError(
                    f"--allow-origin is {origin!r}, which is not an origin",
                    hint="Use scheme, host and port without a path, such as https://app.test:3000",
                )
        self._allowed_origins = frozenset(origin.lower() for origin in allowed_origins)
        self._allowed_hosts = {urlsplit(address).hostname for address in (url, *allowed_origins)}
        self._pictures = pictures
        self._is_privileged = is_privileged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the app, or refuse it."""
        refusal = self._refusal(scope) if scope["type"] != "lifespan" else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        message, hint = refusal
        # The client libraries of Supabase read different keys of an error body: send them all.
        body = {
            "code": "foreign_page",
            "error_code": "foreign_page",
            "error": "Forbidden",
            "statusCode": "403",
            "message": message,
            "msg": message,
            "hint": hint,
        }
        await JSONResponse(body, 403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[str, str] | None:
        """Return the reason for which a request is refused and a hint; None if it is accepted."""
        headers = Headers(scope=scope)
        # Browsers and HTTP/1.1 clients always send Host; a request without one is refused.
        for host in headers.getlist("host") or [""]:
            if not self._is_allowed_host(host):
                return f"Host {host!r} is not this machine", "Call 127.0.0.1 or localhost."
        origins = headers.getlist("origin")
        for origin in origins:
            if is_loopback_origin(origin):
                continue
            if origin.lower() not in self._allowed_origins:
                return (
                    f"Origin {origin!r} may not call the embedded stack",
                    "If the page is yours, serve it from http://localhost, or start the stack"
                    " with --allow-origin and this origin.",
                )
            if self._is_privileged(scope):
                return (
                    f"Origin {origin!r} may not use a service key, admin routes or fault switches",
                    "Use the publishable key and a user's token, or a page on http://localhost.",
                )
        # A cross-site request without an Origin loads a picture or a script, or follows a link. A
        # speculative request (prefetch, prerender) does not state which site it comes from.
        is_foreign = headers.get("sec-fetch-site") == "cross-site" or "sec-purpose" in headers
        if not origins and is_foreign:
            is_picture = scope.get("method") in ("GET", "HEAD") and scope["path"].startswith(
                self._pictures
            )
            if not is_picture:
                return "Another site may not call the embedded stack", "Open the address itself."
        return None

    def _is_allowed_host(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        return is_loopback(match[1]) or match[1].lower() in self._allowed_hosts
