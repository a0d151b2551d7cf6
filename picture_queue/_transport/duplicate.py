"""Connections to the project of a backend that are not shared with its other users."""

from dataclasses import replace

from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.backend_sync import Backend


def with_own_pool(backend: AsyncBackend) -> AsyncBackend:
    """Return the same project with a connection pool of its own, if it has a database."""
    if backend.database is None:
        return backend
    return AsyncBackend(None, backend.database.settings)


async def for_thread(backend: AsyncBackend) -> Backend:
    """Return one connection to the same project for a thread; the first call opens it."""
    if backend.database is not None:
        return Backend(None, replace(backend.database.settings, connections=1))
    from picture_queue._transport.postgrest_sync import Postgrest

    assert backend.api is not None  # noqa: S101 - one of the two is there
    settings, token = backend.api.settings, await backend.api.access_token()
    token_of_user = None if token == settings.key else token
    return Backend(Postgrest(replace(settings, access_token=token_of_user)))
