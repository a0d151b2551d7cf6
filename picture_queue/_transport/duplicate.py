"""Create a second backend for a project, with connections of its own."""

from dataclasses import replace

from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.backend_sync import Backend


def with_own_pool(backend: AsyncBackend) -> AsyncBackend:
    """Return a backend with its own database connections; the same backend if it uses the API."""
    if backend.database is None:
        return backend
    return AsyncBackend(None, backend.database.settings)


async def for_thread(backend: AsyncBackend) -> Backend:
    """Return a sync backend for a thread, with one connection, which its first call opens."""
    if backend.database is not None:
        return Backend(None, replace(backend.database.settings, connections=1))
    from picture_queue._transport.postgrest_sync import Postgrest
    from picture_queue._transport.tls import find_ssl_context

    assert backend.api is not None  # noqa: S101 - a backend has a database or an API
    settings, caller = backend.api.settings, (await backend.api.client()).postgrest
    api = Postgrest(settings, ssl_context=find_ssl_context(caller.session, settings.url))
    # Copy all headers: a gateway may require some that the caller set in the client.
    api.client().postgrest.headers = caller.headers
    return Backend(api)
