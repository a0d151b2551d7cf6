"""Reading of JSON from clients, bounded in size and depth.

Postgres can store each value that is accepted, and JSON can represent it.
"""

import json
import re
from itertools import accumulate
from typing import Any, Final, NoReturn

from starlette.requests import HTTPConnection, Request

#: Maximum bytes of a body. Parsing a body blocks the event loop, and so all other requests.
MAX_BYTES: Final = 1_048_576
_MAX_DEPTH: Final = 100  # levels, as in the SQL
# A string without a closing quote matches up to the end of the text. Otherwise the search would
# start again at each quote in the string, which takes quadratic time. `++` and `*+` do not
# backtrack, since backtracking takes 100 bytes of memory for each character.
_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_DEPTH_CHANGES: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON in UTF-8, has more than 100 levels, or contains a number or
            a lone surrogate that Python reads but JSON or Postgres cannot represent.
    """
    if isinstance(text, bytes):
        text = text.decode()
    if text.count("[") + text.count("{") > _MAX_DEPTH and _depth(text) > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
    value = json.loads(text, parse_constant=_refuse)
    # Raises ValueError for a number that became infinite, and for a lone surrogate.
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


class BodyTooLarge(Exception):
    """An error for a body with too many bytes.

    Args:
        max_bytes: The maximum number of bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The body is larger than {max_bytes} bytes; send less in one request.")


async def receive(request: Request, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the body of a request.

    Raises:
        BodyTooLarge: The body is larger than `max_bytes` bytes.
        ClientDisconnect: The client closed the connection.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise BodyTooLarge(max_bytes)
    return bytes(body)


def is_json(request: HTTPConnection) -> bool:
    """Return whether a request declares its body as JSON."""
    content_type, _, _ = request.headers.get("content-type", "").partition(";")
    return content_type.strip().lower() == "application/json"


def _depth(text: str) -> int:
    changes = (_DEPTH_CHANGES.get(character, 0) for character in _STRING.sub("", text))
    return max(accumulate(changes), default=0)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")
