"""The JSON frames of the Phoenix protocol, version 1.0.0, as Supabase Realtime writes them.

Source: https://supabase.com/docs/guides/realtime/protocol. The Python client drops a frame without
the key `ref`, so each frame has this key, with the value null if there is no reference.
"""

import json
from typing import Any

PREFIX = "realtime:"


def frame(topic: str, event: str, payload: object, ref: str | None = None) -> str:
    """Return a frame as text."""
    message = {"topic": topic, "event": event, "payload": payload, "ref": ref}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def ok(topic: str, ref: str | None, response: dict[str, Any] | None = None) -> str:
    """Return the reply to a request that succeeded."""
    return frame(topic, "phx_reply", {"status": "ok", "response": response or {}}, ref)


def error(topic: str, ref: str | None, reason: str) -> str:
    """Return the reply to a request that failed; the reason has the form ``Code: text``."""
    return frame(topic, "phx_reply", {"status": "error", "response": {"reason": reason}}, ref)


def system_error(topic: str, message: str) -> str:
    """Return the frame that the server sends to a channel before it closes the channel."""
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
    """Return the frame of a broadcast that came from the database or over HTTP.

    Args:
        name: Topic without the prefix.
        event: Name of the event.
        payload: A JSON object.
        message_id: The id of the message; a replay or a duplicate has the same id.
        replayed: Whether the message is sent as a replay.
    """
    meta = {"id": message_id, **({"replayed": True} if replayed else {})}
    body = {"type": "broadcast", "event": event, "payload": payload, "meta": meta}
    return frame(PREFIX + name, "broadcast", body)
