# Written by scripts/unasync.py from picture_queue/_async/events.py: edit that file.

"""External events."""

from uuid import UUID

from pydantic import JsonValue

from picture_queue._rpc import events as _rpc
from picture_queue._transport.backend_sync import Backend


class Events:
    """External events, which wake the jobs that are parked on them.

    Every method needs a service key.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def send(
        self, name: str, payload: JsonValue = None, *, event_id: UUID | str | None = None
    ) -> int:
        """Send an external event to parked jobs.

        If no job waits for the event yet, it is stored for a day; a later event with the same name
        replaces it.

        Args:
            name: The name of the event on which the handler parked the job; if the handler gave
                none, the id of the job.
            payload: The value that the handler gets as ``job.event``.
            event_id: The id of the event at its source, up to 200 characters. A repeated call with
                this id within a day changes nothing.

        Returns:
            The number of jobs that the event woke.

        Raises:
            InvalidArgument: The name is empty, or longer than 200 characters.
            TooLarge: The payload is larger than the limit.
        """
        return self._backend.call(_rpc.send_event(name, payload, event_id))
