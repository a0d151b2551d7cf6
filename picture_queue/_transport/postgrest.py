"""Calls over HTTPS through the project's own API, with the supabase client's session."""

import asyncio
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from supabase import AsyncClient, AsyncClientOptions

from picture_queue._json import encode
from picture_queue._loopback import direct_mounts
from picture_queue._rpc import Rpc
from picture_queue._transport.base import Deadline, StorageCall, parse_answer
from picture_queue._transport.errors import (
    needs_usable_environment,
    translate_http_error,
    translate_response,
)
from picture_queue._transport.owner import LoopOwner, ProcessOwner, leave_open
from picture_queue._transport.unreadable import read_json
from picture_queue.errors import SettingsError
from picture_queue.settings import ProjectSettings

T = TypeVar("T")


class AsyncPostgrest:
    """One project, reached with one key or as one user.

    Args:
        settings: Project and key; a client is made of them when it is first needed.
        client: A supabase client of the caller's instead; it stays open when this closes.
    """

    def __init__(self, settings: ProjectSettings, client: AsyncClient | None = None) -> None:
        self.settings = settings
        self._client = client
        self._maker = ProcessOwner()
        self._owner: LoopOwner | None = None
        self._http: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def client(self) -> AsyncClient:
        """Return the supabase client, made at the first call.

        Raises:
            SettingsError: A client of the caller's was made before a fork, or in an event loop
                that is closed.
        """
        if self._owner is None or not self._owner.is_current():
            await self._open()
        assert self._client is not None  # noqa: S101 - just opened
        return self._client

    async def _open(self) -> None:
        async with self._opening:
            if self._owner is not None and self._owner.is_current():
                return  # another thread has opened it
            if self._owner is not None and self._owner.is_inherited():
                leave_open(self._http)
            owner = LoopOwner()
            if self._client is None or self._http is not None:
                # One httpx client serves REST, Storage and Auth, and is ours to close. HTTP/2 is
                # not safe in threads, and loses all calls with a connection.
                with needs_usable_environment():
                    self._http = httpx.AsyncClient(
                        timeout=self.settings.timeout, mounts=direct_mounts(self.settings.url)
                    )
                await owner.own(self._http.aclose)
                self._client = self._make_client(self._http)
            elif self._owner is not None or self._maker.is_inherited():
                raise SettingsError(
                    "The supabase client belongs to another process or event loop",
                    hint="Make a new one here, and a new PictureQueue of it",
                )
            self._owner = owner

    def _make_client(self, http: httpx.AsyncClient) -> AsyncClient:
        options = AsyncClientOptions(
            auto_refresh_token=False, persist_session=False, httpx_client=http
        )
        if self.settings.access_token:
            options.headers["Authorization"] = f"Bearer {self.settings.access_token}"
        return AsyncClient(self.settings.url, self.settings.key, options)

    async def call(self, rpc: Rpc[T], deadline: Deadline) -> T:
        """Make a call and return its parsed result.

        Args:
            rpc: The call.
            deadline: When to give up, connecting included.

        Raises:
            PictureQueueError: The database or the project refused the call, or did not answer.
        """
        client = await self.client()
        headers = {**client.postgrest.headers, "Content-Type": "application/json"}
        request = client.postgrest.session.build_request(
            "POST",
            f"{client.rest_url}/rpc/{rpc.function}",
            content=encode(rpc.params),
            headers=headers,
        )
        response, content = await self._send(client, request, deadline)
        kind = response.headers.get("content-type", "")
        if "html" in kind:  # a page is no answer of an API
            raise translate_response(response, content, self.settings.url)
        return parse_answer(rpc, content or None, read_json if "json" in kind else bytes.decode)

    async def storage(self, call: StorageCall, deadline: Deadline) -> bytes:
        """Make a call of Storage and return its answer.

        Args:
            call: The call.
            deadline: When to give up, connecting included.

        Raises:
            PictureQueueError: Storage refused the call, or did not answer.
        """
        client = await self.client()
        request = client.postgrest.session.build_request(
            call.method,
            f"{client.storage_url}{quote(call.path)}",
            content=call.content,
            headers={**client.options.headers, **call.headers},
        )
        return (await self._send(client, request, deadline))[1]

    async def _send(
        self, client: AsyncClient, request: httpx.Request, deadline: Deadline
    ) -> tuple[httpx.Response, bytes]:
        request.extensions["timeout"] = _Timeouts(deadline)
        try:
            response = await client.postgrest.session.send(request, stream=True)
            content = await _read(response, deadline)
        except Exception as error:
            # On a dead network the idle connections are lost as well; each would cost a call.
            for connection in _idle_connections(client.postgrest.session):
                await connection.aclose()
            raise translate_http_error(error, self.settings.url, deadline) from error
        if not response.is_success:
            raise translate_response(response, content, self.settings.url)
        return response, content

    async def access_token(self) -> str:
        """Return the token calls are made with now: the user's, or else the key."""
        header: str = (await self.client()).options.headers.get("Authorization", "")
        return header.removeprefix("Bearer ") or self.settings.key

    async def aclose(self) -> None:
        """Close the connections, unless the caller brought the client."""
        if self._http is not None and self._owner is not None:
            await self._owner.aclose()
            self._http = self._client = self._owner = None


async def _read(response: httpx.Response, deadline: Deadline) -> bytes:
    try:
        parts = []
        async for part in response.aiter_bytes():
            parts.append(part)
            if not deadline.remaining():
                raise httpx.ReadTimeout("the answer did not end in time")
    finally:
        await response.aclose()
    return b"".join(parts)


def _idle_connections(http: httpx.AsyncClient) -> list[Any]:
    # httpx has no public way to close them. Where this does not find them, they close themselves
    # when they have been idle for five seconds.
    transports = [http._transport, *http._mounts.values()]
    pools = [getattr(transport, "_pool", None) for transport in transports]
    connections = [one for pool in pools for one in getattr(pool, "connections", ())]
    return [connection for connection in connections if connection.is_idle()]


class _Timeouts(dict[str, float]):
    """The timeouts of an HTTP request, each step of which may take what is left of the deadline."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def get(self, key: str, default: Any = None) -> Any:
        """Return the seconds for a step (connect, read, write, pool), at least a millisecond."""
        return max(0.001, self._deadline.remaining())
