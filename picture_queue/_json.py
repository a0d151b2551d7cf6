"""The serialiser for all arguments and for the results of handlers: Python values to JSON.

It accepts every value that pydantic can write as JSON, in pydantic's format: a Decimal becomes
text, a timedelta becomes ISO 8601 text, and an Enum becomes its value. A naive datetime counts as
local time. A set is sorted, so that equal sets give equal JSON. A value that JSON cannot express or
PostgreSQL cannot store raises an `InvalidArgument` that names the field.
"""

import math
from collections import deque
from collections.abc import Iterator, KeysView, Mapping, ValuesView
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json, to_jsonable_python

from picture_queue.errors import InvalidArgument

_PLAIN_TYPES = frozenset({str, int, float, bool, type(None)})
_SEQUENCES = (list, tuple, deque, range, KeysView, ValuesView)
_MAX_ITERATOR_ITEMS = 1_000_000  # so that an infinite iterator does not hang the program
_MAX_DEPTH = 100  # levels of nesting; the database accepts no more
# A value with this number of parts (numbers, texts, lists and dicts) takes a few milliseconds to
# write as JSON.
_MAX_PARTS = 10_000
_CHARACTERS_PER_PART = 100  # characters of text that take as long to write as one part


def to_plain(value: Any, field: str = "") -> Any:
    """Convert a value to strings, numbers, booleans, None, lists and dicts.

    Args:
        value: A value of any type.
        field: The name of the argument in error messages; empty for the dict of all arguments.

    Raises:
        InvalidArgument: A part of the value cannot be written as JSON; the error names the part.
    """
    try:
        return _plain(value)
    except Exception as error:  # the caller's own serialiser can raise any exception
        raise _invalid_argument(value, field, error) from error


def encode(value: Any, field: str = "") -> bytes:
    """Return a plain value as JSON.

    Args:
        value: The value, as `to_plain` returns it.
        field: The name of the argument in error messages; empty for the dict of all arguments.

    Raises:
        InvalidArgument: A number cannot be expressed in JSON, or PostgreSQL cannot store a text;
            the error names the part.
    """
    try:
        data = to_json(value)
    except Exception as error:
        raise _invalid_argument(value, field, error) from error
    # These bytes do not prove a fault: the text "NaN", for example, is valid. So check the value.
    if b"\\u0000" in data or b"NaN" in data or b"Infinity" in data:
        _raise_if_faulty(value, field)
    return data


def plain_result(value: Any) -> tuple[Any, int]:
    """Return the result of a handler as plain JSON, and its size in bytes.

    A number that is not finite becomes null: one missing measurement must not fail the job.

    Raises:
        InvalidArgument: A part of the result cannot be written as JSON; the error names the part.
    """
    field = "result"
    value = to_plain(value, field)
    try:
        value = from_json(to_json(value, inf_nan_mode="null"))
    except Exception as error:
        raise _invalid_argument(value, field, error) from error
    return value, len(encode(value, field))


def is_large(value: object) -> bool:
    """Return whether writing a value as JSON may block an event loop for too long.

    An iterator counts as large, since code of the caller produces its items.
    """
    unvisited: list[Any] = [value]
    size = 0
    while unvisited and size <= _MAX_PARTS:
        part = unvisited.pop()
        if type(part) is str:
            size += len(part) // _CHARACTERS_PER_PART
        # Not isinstance(): iterating over an instance of a subclass may run code of the caller.
        elif type(part) in (dict, list, tuple, set, frozenset):
            size += len(part)
            if size <= _MAX_PARTS:
                unvisited.extend(part.values() if type(part) is dict else part)
        elif type(part) not in _PLAIN_TYPES and isinstance(part, Iterator):
            return True
    return size > _MAX_PARTS


def encode_text(value: str, field: str) -> bytes:
    """Encode text as UTF-8.

    Args:
        value: The text.
        field: The name of the argument in error messages.

    Raises:
        InvalidArgument: PostgreSQL cannot store the text.
    """
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise _invalid_argument(value, field, error) from error
    if b"\0" in data:
        _raise_if_faulty(value, field)
    return data


def _plain(value: Any) -> Any:
    type_ = type(value)
    if type_ in _PLAIN_TYPES:
        return value
    if type_ is dict:
        return {
            key: item if type(item) in _PLAIN_TYPES else _plain(item) for key, item in value.items()
        }
    if type_ is list:
        return [item if type(item) in _PLAIN_TYPES else _plain(item) for item in value]
    return _convert(value)


def _convert(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        # PostgreSQL would read a naive datetime in the time zone of the database session instead of
        # the time zone of the caller.
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return _plain(dict(value))
    if isinstance(value, Iterator):
        value = list(islice(value, _MAX_ITERATOR_ITEMS + 1))
        if len(value) > _MAX_ITERATOR_ITEMS:
            raise ValueError(f"an iterator of over {_MAX_ITERATOR_ITEMS} items")
        return _plain(value)
    if isinstance(value, _SEQUENCES):
        return _plain(list(value))
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=to_json)
    if (
        is_dataclass(value)
        and not isinstance(value, type)
        and not hasattr(value, "__pydantic_serializer__")
    ):
        return _plain({field.name: getattr(value, field.name) for field in fields(value)})
    return to_jsonable_python(value)


def _invalid_argument(value: Any, field: str, error: Exception) -> InvalidArgument:
    try:
        fault = _find_fault(value, field, 0)
    except Exception:  # the caller's own __str__ or __iter__ failed
        fault = None
    if fault is None:  # for example, because the failed conversion has exhausted an iterator
        problem = f"is not serialisable as JSON: {_first_line(error)}"
        fault = (field or "A value", problem, "Pass strings, numbers, lists and dicts")
    return _error(*fault)


def _raise_if_faulty(value: Any, field: str) -> None:
    fault = _find_fault(value, field, 0)
    if fault is not None:
        raise _error(*fault)


def _error(path: str, problem: str, hint: str) -> InvalidArgument:
    # The database raises the same message for the faults that it finds.
    detail = f"{path[:200]} {problem}".strip()
    return InvalidArgument("An argument is invalid", detail=detail, hint=hint)


def _find_fault(value: Any, path: str, depth: int) -> tuple[str, str, str] | None:
    """Return the path of the first part that cannot be written as JSON, its fault, and a hint."""
    if depth > _MAX_DEPTH:
        field = path.partition("[")[0].partition(".")[0]
        return field, f"is nested deeper than {_MAX_DEPTH} levels", "Reduce the nesting"
    if isinstance(value, Mapping):
        for key, item in value.items():
            name = f"{path}.{key}" if path else str(key)
            fault = _find_leaf_fault(key, f"a name in {path}") or _find_fault(item, name, depth + 1)
            if fault is not None:
                return fault
        return None
    if isinstance(value, list | tuple | set | frozenset):
        for i, item in enumerate(value):
            fault = _find_fault(item, f"{path}[{i}]", depth + 1)
            if fault is not None:
                return fault
        return None
    return _find_leaf_fault(value, path)


def _find_leaf_fault(value: Any, path: str) -> tuple[str, str, str] | None:
    if isinstance(value, str):
        return _find_text_fault(value, path)
    if isinstance(value, float) and not math.isfinite(value):
        return path, f"is {value}, which JSON cannot express", "Leave it out, or pass it as text"
    try:
        text = to_json(_plain(value)).decode()
    except Exception as error:
        problem = f"is of type {type(value).__name__}, which JSON cannot express"
        return path, f"{problem}: {_first_line(error)}", "Convert it first"
    return _find_text_fault(text, path) if "\\u0000" in text else None


def _find_text_fault(text: str, path: str) -> tuple[str, str, str] | None:
    if "\0" in text:
        return path, "has the character U+0000, which no database can store", "Remove it"
    for character in text if not text.isascii() else "":
        if "\ud800" <= character <= "\udfff":
            problem = f"has U+{ord(character):04X}, an unpaired surrogate (half of a character)"
            return path, problem, "Replace it: text.encode(errors='replace').decode()"
    return None


def _first_line(error: Exception) -> str:
    try:
        return str(error).strip().split("\n", 1)[0][:200]
    except Exception:  # the caller's own __str__ failed
        return type(error).__name__
