"""Python values as JSON: the one serialiser, for arguments and for the results of handlers.

What pydantic can write as JSON is accepted, in its format: a Decimal is text, a timedelta ISO 8601,
an Enum its value. A naive time is local, and a set is sorted, so that equal sets are equal JSON.
What no JSON can hold, or PostgreSQL cannot store, is refused with the name of the field.
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
_LONGEST_ITERATOR = 1_000_000  # items: one without end must not hang the program
_DEEPEST = 100  # levels that the database accepts


def plain(value: Any, field: str = "") -> Any:
    """Return a value as text, numbers, booleans, None, lists and dicts.

    Args:
        value: The value.
        field: Its name for the caller; empty for the dict of all arguments.

    Raises:
        InvalidArgument: A part of it is no JSON; names the part.
    """
    try:
        return _plain(value)
    except Exception as error:  # a serialiser of the caller's own can raise anything
        raise _refusal(value, field, error) from error


def encode(value: Any, field: str = "") -> bytes:
    """Return a plain value as JSON.

    Args:
        value: The value, as `plain` returns it.
        field: Its name for the caller; empty for the dict of all arguments.

    Raises:
        InvalidArgument: JSON or PostgreSQL has no such number or text; names the part.
    """
    try:
        data = to_json(value)
    except Exception as error:
        raise _refusal(value, field, error) from error
    # These may also be parts of words: only then is the value looked at.
    if b"\\u0000" in data or b"NaN" in data or b"Infinity" in data:
        _refuse_fault(value, field)
    return data


def plain_result(value: Any) -> tuple[Any, int]:
    """Return the result of a handler as plain JSON, and its size in bytes.

    A number that is not finite becomes null: one missing measurement must not fail the job.

    Raises:
        InvalidArgument: A part of it is no JSON; names the part.
    """
    field = "result"
    value = plain(value, field)
    try:
        value = from_json(to_json(value, inf_nan_mode="null"))
    except Exception as error:
        raise _refusal(value, field, error) from error
    return value, len(encode(value, field))


def encode_text(value: str, field: str) -> bytes:
    """Return text in UTF-8.

    Args:
        value: The text.
        field: Its name for the caller.

    Raises:
        InvalidArgument: PostgreSQL cannot store it.
    """
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise _refusal(value, field, error) from error
    if b"\0" in data:
        _refuse_fault(value, field)
    return data


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return value
    if kind is dict:
        return {
            key: item if type(item) in _PLAIN_TYPES else _plain(item) for key, item in value.items()
        }
    if kind is list:
        return [item if type(item) in _PLAIN_TYPES else _plain(item) for item in value]
    return _converted(value)


def _converted(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        # PostgreSQL would read a naive time in the session's zone, which is not the caller's.
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return _plain(dict(value))
    if isinstance(value, Iterator):
        value = list(islice(value, _LONGEST_ITERATOR + 1))
        if len(value) > _LONGEST_ITERATOR:
            raise ValueError(f"an iterator of over {_LONGEST_ITERATOR} items")
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


def _refusal(value: Any, field: str, error: Exception) -> InvalidArgument:
    try:
        fault = _find_fault(value, field, 0)
    except Exception:  # somebody's __str__ or __iter__
        fault = None
    if fault is None:  # also of an iterator that is used up, for example
        fault = (field or "A value", f"is no JSON: {_first_line(error)}", "Pass plain values")
    return _invalid(*fault)


def _refuse_fault(value: Any, field: str) -> None:
    fault = _find_fault(value, field, 0)
    if fault is not None:
        raise _invalid(*fault)


def _invalid(path: str, problem: str, hint: str) -> InvalidArgument:
    # The words of the database, so that it does not matter who finds the fault.
    detail = f"{path[:200]} {problem}".strip()
    return InvalidArgument("An argument is not acceptable", detail=detail, hint=hint)


def _find_fault(value: Any, path: str, depth: int) -> tuple[str, str, str] | None:
    """Return the path of the first part that is no JSON, its fault, and what to do."""
    if depth > _DEEPEST:
        field = path.partition("[")[0].partition(".")[0]
        return field, f"is nested deeper than {_DEEPEST} levels", "Make it flatter"
    if isinstance(value, Mapping):
        for key, item in value.items():
            name = f"{path}.{key}" if path else str(key)
            fault = _fault(key, f"a name in {path}") or _find_fault(item, name, depth + 1)
            if fault is not None:
                return fault
        return None
    if isinstance(value, list | tuple | set | frozenset):
        for i, item in enumerate(value):
            fault = _find_fault(item, f"{path}[{i}]", depth + 1)
            if fault is not None:
                return fault
        return None
    return _fault(value, path)


def _fault(value: Any, path: str) -> tuple[str, str, str] | None:
    if isinstance(value, str):
        return _fault_of_text(value, path)
    if isinstance(value, float) and not math.isfinite(value):
        return path, f"is {value}, and JSON has no such number", "Leave it out, or pass it as text"
    try:
        text = to_json(_plain(value)).decode()
    except Exception as error:
        kind = type(value).__name__
        return path, f"is of type {kind} and no JSON: {_first_line(error)}", "Convert it first"
    return _fault_of_text(text, path) if "\\u0000" in text else None


def _fault_of_text(text: str, path: str) -> tuple[str, str, str] | None:
    if "\0" in text:
        return path, "has the character U+0000, which no database can store", "Remove it"
    for character in text if not text.isascii() else "":
        if "\ud800" <= character <= "\udfff":
            problem = f"has U+{ord(character):04X}, which is half of a character"
            return path, problem, "Replace it: text.encode(errors='replace').decode()"
    return None


def _first_line(error: Exception) -> str:
    try:
        return str(error).strip().split("\n", 1)[0][:200]
    except Exception:  # somebody's __str__
        return type(error).__name__
