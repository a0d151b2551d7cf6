"""The JSON frames of the Phoenix protocol, version 1.0.0, as Supabase Realtime writes them.

Source: https://supabase.com/docs/guides/realtime/protocol. The Python client drops a frame that has
no key `ref`, so it is written even where it is null.
"""

import json
from typing import Any

PREFIX = "realtime:"


def frame(topic: str, event: str, payload: object, ref: str | None = None) -> str:
    """Returns one frame as text."""
    message = {"topic": topic, "event": event, "payload": payload, "ref": ref}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def ok(topic: str, ref: str | None, response: dict[str, Any] | None = None) -> str:
    """The reply to a request that succeeded."""
    return frame(topic, "phx_reply", {"status": "ok", "response": response or {}}, ref)


def error(topic: str, ref: str | None, reason: str) -> str:
    """The reply to a request that failed; the reason reads ``Code: text``."""
    return frame(topic, "phx_reply", {"status": "error", "response": {"reason": reason}}, ref)


def system_error(topic: str, message: str) -> str:
    """The frame that a channel gets before the server closes it."""
    payload = {
        "channel": topic.removeprefix(PREFIX),
        "extension": "system",
        "message": message,
        "status": "error",
    }
    return frame(topic, "system", payload)


def broadcast(
    name: str, event: str, payload: object, message_id: str, *, replayed: bool = False
) -> str:
    """A broadcast sent by the database or over HTTP.

    Args:
        name: Topic without the prefix.
        event: Name of the event.
        payload: A JSON object.
        message_id: Unique; a replay or a duplicate carries the same.
        replayed: Whether it was sent before.
    """
    meta = {"id": message_id, **({"replayed": True} if replayed else {})}
    body = {"type": "broadcast", "event": event, "payload": payload, "meta": meta}
    return frame(PREFIX + name, "broadcast", body)
