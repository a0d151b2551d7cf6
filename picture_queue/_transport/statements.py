"""The statement of each function, and its arguments as PostgreSQL reads them from text."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

from picture_queue._transport.base import FunctionMissing

#: The parameters of a function with their types, and what it returns; no row when there is none.
SIGNATURE = b"""
select json_build_object('names', coalesce(p.proargnames, '{}'),
  'types', p.proargtypes::regtype[]::text[],
  'returns', p.prorettype::regtype::text, 'is_set', p.proretset)::text
from pg_catalog.pg_proc p
where p.proname = $1 and p.pronamespace = 'public'::regnamespace"""


class Statement:
    """How one function is called.

    Args:
        function: Name in the schema ``public``.
        types: Type of each parameter.
        returns: Type of the result.
        is_set: It returns rows.
    """

    __slots__ = ("_encoders", "_function", "_select", "_texts")

    def __init__(self, function: str, types: Mapping[str, str], returns: str, is_set: bool) -> None:
        self._function = function
        self._encoders = {name: _encoder(type_) for name, type_ in types.items()}
        call = f'public."{function}"({{}})'
        if is_set:
            self._select = f"select coalesce(jsonb_agg(r), '[]')::text from {call} r"  # noqa: S608
        elif returns in ("json", "jsonb", "void"):
            self._select = f"select {call}::text"
        else:
            self._select = f"select to_jsonb({call})::text"
        self._texts: dict[tuple[str, ...], bytes] = {}

    def of(self, params: Mapping[str, Any]) -> tuple[bytes, list[bytes | None]]:
        """Returns the statement that passes these parameters by name, and their values.

        Raises:
            FunctionMissing: The function has no such parameter: it is older, or newer.
        """
        names = tuple(params)
        text = self._texts.get(names)
        if text is None:
            if not self._encoders.keys() >= params.keys():
                raise FunctionMissing(self._function)
            passed = ", ".join(f'"{name}" => ${i}' for i, name in enumerate(names, 1))
            text = self._texts[names] = self._select.format(passed).encode()
        encoders = self._encoders
        return text, [encoders[name](value) for name, value in params.items()]


def statement_of(function: str, signature: dict[str, Any]) -> Statement:
    """Returns the statement of a function, from the row of `SIGNATURE`."""
    types = dict(zip(signature["names"], signature["types"], strict=False))
    return Statement(function, types, signature["returns"], signature["is_set"])


def _encoder(type_: str) -> Callable[[Any], bytes | None]:
    if type_ in ("json", "jsonb"):
        return _json
    return _array if type_.endswith("[]") else _text


def _json(value: Any) -> bytes | None:
    return None if value is None else to_json(value)


def _text(value: Any) -> bytes | None:
    return None if value is None else str(value).encode()


def _array(value: Any) -> bytes | None:
    """Writes an array as https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO has it."""
    if value is None:
        return None
    items = (str(item).replace("\\", "\\\\").replace('"', '\\"') for item in value)
    return ("{" + ",".join(f'"{item}"' for item in items) + "}").encode()
