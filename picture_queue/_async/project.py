"""External events, and the settings of a project."""

from typing import Any
from uuid import UUID

from pydantic import JsonValue

from picture_queue import _rpc_operate
from picture_queue._transport.backend import AsyncBackend
from picture_queue.records_operate import Setting


class AsyncEvents:
    """External events, which wake the jobs that are parked on them. Needs a service key."""

    def __init__(self, project: AsyncBackend) -> None:
        self._project = project

    async def send(
        self, name: str, payload: JsonValue = None, *, event_id: UUID | str | None = None
    ) -> int:
        """Send an external event to waiting jobs.

        If nobody waits yet, it is kept for a day; a second one of that name replaces the first.

        Args:
            name: What the handler parked on; the job's id by default.
            payload: What the handler gets as ``job.event``.
            event_id: The id that its source gave the event, up to 200 characters. If it is sent
                again with that id within a day, no job is woken twice.

        Returns:
            The number of jobs that it woke.

        Raises:
            InvalidArgument: The name is empty, or longer than 200 characters.
            TooLarge: The payload is above the limit.
        """
        return await self._project.call(_rpc_operate.send_event(name, payload, event_id))


class AsyncSettings:
    """The defaults and limits of a project. Needs a service key."""

    def __init__(self, project: AsyncBackend) -> None:
        self._project = project

    async def get(self) -> Setting:
        """Return the settings."""
        return await self._project.call(_rpc_operate.get_settings())

    async def set(self, **changes: Any) -> Setting:
        """Change settings.

        Args:
            **changes: Fields of `Setting` by name; None: the value of a new project.

        Returns:
            The settings as they are now.

        Raises:
            InvalidArgument: Naming the field and the value.
        """
        return await self._project.call(_rpc_operate.set_setting(changes))
