# Written by scripts/unasync.py from picture_queue/_async/events.py: edit that file.

"""External events. Every method needs a service key."""

from uuid import UUID

from pydantic import JsonValue

from picture_queue._rpc import events as _rpc
from picture_queue._transport.backend_sync import Backend


class Events:
    """External events, which wake the jobs that are parked on them. Needs a service key."""

    def __init__(self, project: Backend) -> None:
        self._project = project

    def send(
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
        return self._project.call(_rpc.send_event(name, payload, event_id))
