"""Calls about external events."""

from uuid import UUID

from pydantic import JsonValue

from picture_queue._ids import new_id
from picture_queue._rpc.base import Rpc, keep_none


def send_event(name: str, payload: JsonValue, event_id: UUID | str | None) -> Rpc[int]:
    """Return the call that sends an event; its result is the number of jobs that it woke."""
    params = keep_none(name=name, payload=payload, event_id=event_id or new_id())
    return Rpc("send_event", params, lambda data: int(data["woken"]))
