"""The two versions of the Phoenix protocol: supabase-py uses 1.0.0, supabase-js 2.0.0.

Inside the gateway, frames have version 1.0.0, whose frames are JSON objects. The frames of version
2.0.0 are JSON arrays, and clients of this version send broadcasts in binary. Source:
https://supabase.com/docs/guides/realtime/protocol.
"""

import json
from typing import Any

from picture_queue.local import json_body

OBJECTS = "1.0.0"
ARRAYS = "2.0.0"

_FIELDS = ("join_ref", "ref", "topic", "event", "payload")  # in the order of the array
_BROADCAST = 3  # the kind of a binary frame that is a broadcast of a client
_JSON = 1  # the encoding of the payload of such a frame


def write(version: str, text: str) -> str:
    """Return a frame in the format of this protocol version."""
    if version == OBJECTS:
        return text
    message = json.loads(text)
    fields = [message.get(name) for name in _FIELDS]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def read(data: str | bytes) -> dict[str, Any]:
    """Parse a client's frame of either version.

    Raises:
        ValueError: The message is not a frame.
    """
    if isinstance(data, bytes):
        return _read_broadcast(data)
    message = json_body.parse(data)
    if isinstance(message, list):
        return dict(zip(_FIELDS, message, strict=True))
    if not isinstance(message, dict):
        raise ValueError("a frame is an object or an array")
    return message


def _read_broadcast(data: bytes) -> dict[str, Any]:
    """Parse a binary broadcast.

    The first seven bytes are the kind, the lengths of five texts, and the encoding. The texts and
    the payload follow.
    """
    if len(data) < 7 or data[0] != _BROADCAST or data[6] != _JSON:
        raise ValueError("not a broadcast of JSON")
    texts, position = [], 7
    for length in data[1:6]:
        texts.append(data[position : position + length].decode())
        position += length
    join_ref, ref, topic, event, _metadata = texts
    return {
        "join_ref": join_ref or None,
        "ref": ref or None,
        "topic": topic,
        "event": "broadcast",
        "payload": {
            "type": "broadcast",
            "event": event,
            "payload": json_body.parse(data[position:]),
        },
    }
