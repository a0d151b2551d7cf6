# Written by scripts/unasync.py from picture_queue/_transport/postgrest.py: edit that file.

"""Calls over HTTPS through the project's own API, with the unchanged supabase client."""

import threading
from dataclasses import replace
from typing import TypeVar

import httpx
from supabase import Client, ClientOptions, create_client

from picture_queue._rpc import Rpc
from picture_queue._transport.api_errors import name_error
from picture_queue.settings import ProjectSettings

T = TypeVar("T")


class Postgrest:
    """One project, reached with one key or as one user.

    Args:
        settings: Project and key; a client is made of them when it is first needed.
        client: A supabase client of the caller's instead; it stays open when this closes.
    """

    def __init__(self, settings: ProjectSettings, client: Client | None = None) -> None:
        self.settings = settings
        self._client = client
        self._http: httpx.Client | None = None
        self._opening = threading.Lock()

    def client(self) -> Client:
        """Returns the supabase client, made at the first call."""
        with self._opening:
            if self._client is None:
                # One httpx client serves REST, Storage and Auth, and is ours to close.
                self._http = httpx.Client(http2=True, timeout=self.settings.timeout)
                options = ClientOptions(
                    auto_refresh_token=False, persist_session=False, httpx_client=self._http
                )
                if self.settings.access_token:
                    options.headers["Authorization"] = f"Bearer {self.settings.access_token}"
                self._client = create_client(
                    self.settings.url, self.settings.key, options=options
                )
            return self._client

    def call(self, rpc: Rpc[T]) -> T:
        """Makes the call and returns its parsed result.

        Raises:
            PictureQueueError: What the database or the project answered, by name.
        """
        client = self._client or self.client()
        try:
            return rpc.parse((client.rpc(rpc.function, rpc.params).execute()).data)
        except Exception as error:
            named = self.named(error)
            raise named from (None if named is error else error)

    def named(self, error: Exception) -> Exception:
        """Returns the exception of this library for a failure of a call of the client."""
        return name_error(error, self.settings.url)

    def as_caller(self) -> ProjectSettings:
        """Returns the project as the caller is known to it now, for a second connection."""
        token = self.access_token()
        return replace(self.settings, access_token=None if token == self.settings.key else token)

    def access_token(self) -> str:
        """Returns the token calls are made with now: the user's, or else the key."""
        header: str = (self.client()).options.headers.get("Authorization", "")
        return header.removeprefix("Bearer ") or self.settings.key

    def close(self) -> None:
        """Closes the connections, unless the caller brought the client."""
        if self._http is not None:
            self._http.close()
            self._http = self._client = None
