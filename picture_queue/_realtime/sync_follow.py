"""`follow` for sync callers: the async one, in an event loop of its own thread.

supabase-py has Realtime in its async client only, so a watch opens a second, async connection to
the same project.
"""

from collections.abc import Iterator
from uuid import UUID

from anyio.from_thread import start_blocking_portal

from picture_queue._realtime import follow as asynchronous
from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.backend_sync import Backend
from picture_queue.records import JobEvent


class Watcher:
    """Which project a watch is about; the connections are made by `follow`."""

    def __init__(self, project: Backend) -> None:
        self.project = project

    def close(self) -> None:
        """Does nothing: each watch closes what it opened."""


def follow(
    watcher: Watcher, job_id: UUID | str, timeout: float | None = None
) -> Iterator[JobEvent]:
    """Yields what the async `follow` does; see there."""
    with start_blocking_portal() as portal:
        watch = portal.call(_Watch, watcher.project, job_id, timeout)
        try:
            while (event := portal.call(watch.next)) is not None:
                yield event
        finally:
            portal.call(watch.aclose)


class _Watch:
    """The async half: made, advanced and closed inside the portal's loop."""

    def __init__(self, project: Backend, job_id: UUID | str, timeout: float | None) -> None:
        api = None
        if project.api is not None:
            from picture_queue._transport.postgrest import AsyncPostgrest

            api = AsyncPostgrest(project.api.as_caller())
        database = project.database.settings if project.database is not None else None
        self._project = AsyncBackend(api, database)
        self._watcher = asynchronous.Watcher(self._project)
        self._events = asynchronous.follow(self._watcher, job_id, timeout)

    async def next(self) -> JobEvent | None:
        return await anext(self._events, None)

    async def aclose(self) -> None:
        await self._events.aclose()
        await self._watcher.aclose()
        await self._project.aclose()
