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

        If no job waits for it yet, the event is stored for a day; a later event of the same name
        replaces it.

        Args:
            name: The name that the handler parked the job on; by default the id of the job.
            payload: The value that the handler gets as ``job.event``.
            event_id: The id of the event at its source, up to 200 characters. A repeated call with
                this id within a day changes nothing.

        Returns:
            The number of jobs that it woke.

        Raises:
            InvalidArgument: The name is empty, or longer than 200 characters.
            TooLarge: The payload is above the limit.
        """
        return self._project.call(_rpc.send_event(name, payload, event_id))
