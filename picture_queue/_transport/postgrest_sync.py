# Written by scripts/unasync.py from picture_queue/_transport/postgrest.py: edit that file.

"""A transport that calls the functions over HTTP through PostgREST, with a supabase client."""

import threading
import re
import ssl
from collections.abc import Mapping
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from supabase import Client, ClientOptions

from picture_queue._http import HttpClient
from picture_queue._json import encode
from picture_queue._loopback import direct_mounts
from picture_queue._rpc import Rpc
from picture_queue._transport.base import Deadline, StorageCall, parse_answer
from picture_queue._transport.errors import (
    require_usable_environment,
    translate_http_error,
    translate_response,
)
from picture_queue._transport.owner import ProcessOwner, leave_open
from picture_queue._transport.unreadable import read_json
from picture_queue.errors import NotAuthenticated, SettingsError
from picture_queue.settings import ProjectSettings

T = TypeVar("T")

_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_MAX_TOKEN_LENGTH = 16_384  # characters; servers refuse longer headers


class Postgrest:
    """A transport that calls the functions through PostgREST, with one key or as one user.

    The first call creates the supabase client.

    Args:
        settings: The URL and the key of the project.
        client: A supabase client of the caller to use instead; it is never closed here.
        ssl_context: The TLS settings of the connections; None: the default settings of httpx.
    """

    def __init__(
        self,
        settings: ProjectSettings,
        client: Client | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.settings = settings
        self._client = client
        self._ssl_context = ssl_context
        self._creator = ProcessOwner()
        self._owner: ProcessOwner | None = None
        self._http: HttpClient | None = None
        self._open_lock = threading.Lock()

    def client(self) -> Client:
        """Return the supabase client; create it if there is none yet.

        Raises:
            SettingsError: The caller's client was created before a fork, or in an event loop that
                is closed.
        """
        if self._owner is None or not self._owner.is_current():
            self._open()
        assert self._client is not None  # noqa: S101 - _open has set it
        return self._client

    def _open(self) -> None:
        with self._open_lock:
            if self._owner is not None and self._owner.is_current():
                return  # another caller has opened it
            if self._owner is not None and self._owner.is_inherited():
                leave_open(self._http)
            owner = ProcessOwner()
            if self._client is None or self._http is not None:
                # One httpx client serves PostgREST, Storage and Auth. It uses HTTP/1.1, because
                # HTTP/2 in httpx is not thread-safe and sends all calls over one connection.
                with require_usable_environment():
                    self._http = HttpClient(
                        timeout=self.settings.timeout,
                        mounts=direct_mounts(self.settings.url),
                        # The users of `for_user` share the connections, but never a cookie.
                        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                        verify=self._ssl_context or True,
                    )
                owner.own(self._http.close)
                self._client = self._make_client(self._http)
            elif self._owner is not None or self._creator.is_inherited():
                raise SettingsError(
                    "The supabase client belongs to another process or event loop",
                    hint="Create a supabase client and a PictureQueue in this process and loop",
                )
            self._owner = owner

    def _make_client(self, http: HttpClient) -> Client:
        options = ClientOptions(
            auto_refresh_token=False, persist_session=False, httpx_client=http
        )
        if self.settings.access_token:
            options.headers["Authorization"] = f"Bearer {self.settings.access_token}"
        return Client(self.settings.url, self.settings.key, options)

    def call(self, rpc: Rpc[T], deadline: Deadline) -> T:
        """Make a call and return its parsed result.

        Args:
            rpc: The call.
            deadline: The time by which to connect and receive the answer.

        Raises:
            PictureQueueError: The project refused the call, or did not answer.
        """
        client = self.client()
        headers = self.authorize(client.postgrest.headers) | {"Content-Type": "application/json"}
        request = client.postgrest.session.build_request(
            "POST",
            f"{client.rest_url}/rpc/{rpc.function}",
            content=encode(rpc.params),
            headers=headers,
        )
        response, content = self._send(client, request, deadline)
        media_type = response.headers.get("content-type", "")
        if "html" in media_type:  # PostgREST never answers with HTML
            raise translate_response(response, content, self.settings.url)
        decode = read_json if "json" in media_type else bytes.decode
        return parse_answer(rpc, content or None, decode)

    def storage(self, call: StorageCall, deadline: Deadline) -> bytes:
        """Call Storage and return its answer.

        Args:
            call: The call.
            deadline: The time by which to connect and receive the answer.

        Raises:
            PictureQueueError: Storage refused the call, or did not answer.
        """
        client = self.client()
        request = client.postgrest.session.build_request(
            call.method,
            f"{client.storage_url}{quote(call.path)}",
            content=call.content,
            headers={**self.authorize(client.options.headers), **call.headers},
        )
        _, content = self._send(client, request, deadline)
        return content

    def authorize(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a request, with the key or the token of its caller."""
        return dict(headers)

    def _send(
        self, client: Client, request: httpx.Request, deadline: Deadline
    ) -> tuple[httpx.Response, bytes]:
        request.extensions["timeout"] = _Timeouts(deadline)
        try:
            response = client.postgrest.session.send(request, stream=True)
            content = _read_body(response, deadline)
        except Exception as error:
            # After a network failure the idle connections are dead too. Each of them would make a
            # later call fail.
            for connection in _idle_connections(client.postgrest.session):
                connection.close()
            raise translate_http_error(error, self.settings.url, deadline) from error
        if not response.is_success:
            raise translate_response(response, content, self.settings.url)
        return response, content

    def access_token(self) -> str:
        """Return the current bearer token: the user's token, otherwise the key."""
        header: str = (self.client()).options.headers.get("Authorization", "")
        return header.removeprefix("Bearer ") or self.settings.key

    def for_user(self, token: str) -> "UserPostgrest":
        """Return a transport that makes calls as a user, over the connections of this one.

        Args:
            token: The access token of the user.

        Raises:
            NotAuthenticated: The token is not a JSON Web Token.
        """
        return UserPostgrest(self, token)

    def close(self) -> None:
        """Close the connections, unless the caller passed the client."""
        if self._http is not None and self._owner is not None:
            self._owner.close()
            self._http = self._client = self._owner = None


class UserPostgrest(Postgrest):
    """A transport that makes calls as one user, over the connections of another transport.

    Args:
        shared: The transport with the connections; only it closes them.
        token: The access token of the user.

    Raises:
        NotAuthenticated: The token is not a JSON Web Token.
    """

    def __init__(self, shared: Postgrest, token: str) -> None:
        # Supabase treats a bearer that is not a JWT as absent and uses the key of the request,
        # which may be a service key. So such a token must not be sent.
        is_jwt = isinstance(token, str) and len(token) <= _MAX_TOKEN_LENGTH
        if not is_jwt or _JWT.fullmatch(token) is None:
            raise NotAuthenticated(
                "The access token of the user is not a JSON Web Token",
                hint="Pass the access token of the user's session, without `Bearer `",
            )
        super().__init__(replace(shared.settings, access_token=token))
        self._shared = shared
        self._token = token

    def client(self) -> Client:
        """Return the shared supabase client, whose own headers do not have the user's token."""
        return self._shared.client()

    def for_user(self, token: str) -> "UserPostgrest":
        """Return a transport that makes calls as another user, over the same connections."""
        return self._shared.for_user(token)

    def authorize(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a request, with the token of the user."""
        # Names of headers have no case. Of two tokens in one request, a server would choose one.
        others = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        return others | {"Authorization": f"Bearer {self._token}"}

    def access_token(self) -> str:
        """Return the token of the user."""
        return self._token

    def close(self) -> None:
        """Leave the shared connections open."""


def _read_body(response: httpx.Response, deadline: Deadline) -> bytes:
    try:
        parts = []
        for part in response.iter_bytes():
            parts.append(part)
            if not deadline.remaining():
                raise httpx.ReadTimeout("the answer did not end in time")
    finally:
        response.close()
    return b"".join(parts)


def _idle_connections(http: httpx.Client) -> list[Any]:
    # httpx has no public way to close idle connections. If a later version hides its pools, the
    # list is empty, and httpx closes the connections when they have been idle for five seconds.
    transports = [http._transport, *http._mounts.values()]
    pools = [getattr(transport, "_pool", None) for transport in transports]
    return [
        connection
        for pool in pools
        for connection in getattr(pool, "connections", ())
        if connection.is_idle()
    ]


class _Timeouts(dict[str, float]):
    """The timeouts of an HTTP request: each step may take the time until the deadline.

    httpx reads the timeout of a step with `get` when the step begins.
    """

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def get(self, key: str, default: Any = None) -> Any:
        """Return the seconds for a step (connect, read, write, pool), at least a millisecond."""
        return max(0.001, self._deadline.remaining())
