"""Backends for the same project as another backend, with their own connections."""

from dataclasses import replace

from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.backend_sync import Backend


def with_own_pool(backend: AsyncBackend) -> AsyncBackend:
    """Return a backend with its own pool of database connections; without a database, the same."""
    if backend.database is None:
        return backend
    return AsyncBackend(None, backend.database.settings)


async def for_thread(backend: AsyncBackend) -> Backend:
    """Return a sync backend for a thread, with one connection, which its first call opens."""
    if backend.database is not None:
        return Backend(None, replace(backend.database.settings, connections=1))
    from picture_queue._transport.postgrest_sync import Postgrest

    assert backend.api is not None  # noqa: S101 - a backend has a database or an API
    api = Postgrest(backend.api.settings)
    # All headers: those of the caller's own client may include some that its gateway requires.
    api.client().postgrest.headers = (await backend.api.client()).postgrest.headers
    return Backend(api)
