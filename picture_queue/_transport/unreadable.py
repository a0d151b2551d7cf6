"""A JSON reader that tolerates values which Python cannot read.

PostgreSQL stores numbers of any length and JSON of any depth. Python refuses integers of more than
4,300 digits and nesting beyond its recursion limit. Such a value must not make the other rows
unreadable.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from picture_queue.records import PartlyReadable, Unreadable

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},]')
_KEY = re.compile(r'\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:')


def read_json(data: bytes | str) -> Any:
    """Read JSON.

    Returns:
        The value. If it is a row or a list of rows, each field that Python cannot read is replaced
        by an `Unreadable`.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return from_json(data)
    except (ValueError, RecursionError):
        text = data if isinstance(data, str) else data.decode()
        if not text.startswith("["):
            return _read_row(text)
        return [_read_row(element) for element in _split_members(text)]


def _read_row(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        # Read field by field only if the text is valid JSON that exceeds a limit of Python.
        if isinstance(error, json.JSONDecodeError) or not text.lstrip().startswith("{"):
            raise
    row = PartlyReadable()
    for member in _split_members(text):
        key = _KEY.match(member)
        if key is None:
            raise ValueError("The text is not JSON")
        row[json.loads(key[1])] = _read_field(member[key.end() :])
    return row


def _read_field(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        return Unreadable("The value is nested too deeply to be read")
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        return Unreadable(f"The value cannot be read: {str(error).partition(';')[0]}")


def _split_members(text: str) -> Iterator[str]:
    """Split an array or an object at its top-level commas."""
    depth, start = 0, 0
    for token in _TOKEN.finditer(text):
        symbol = token[0]
        if symbol in ("[", "{"):
            depth += 1
            if depth == 1:
                start = token.end()
        elif symbol in ("]", "}"):
            depth -= 1
        if (symbol == "," and depth == 1) or (symbol in ("]", "}") and depth == 0):
            if member := text[start : token.start()].strip():
                yield member
            start = token.end()
    if depth:
        raise ValueError("The JSON is incomplete")
