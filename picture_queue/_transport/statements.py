"""The statement of each function, and its arguments as PostgreSQL reads them from text."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from picture_queue._json import encode, encode_text
from picture_queue._transport.errors import FunctionMissing
from picture_queue._transport.unreadable import read_json

#: The parameters of a function with their types and defaults, and what it returns; no row when
#: there is none.
SIGNATURE = b"""
select json_build_object(
  'names', coalesce(p.proargnames, '{}'), 'types', p.proargtypes::regtype[]::text[],
  'defaults', array(
    select pg_catalog.pg_get_function_arg_default(p.oid, i) from generate_series(1, p.pronargs) i),
  'returns', p.prorettype::regtype::text, 'is_set', p.proretset)::text
from pg_catalog.pg_proc p
where p.proname = $1 and p.pronamespace = 'public'::regnamespace"""


class Statement:
    """The statement that calls one function.

    Args:
        function: Name in the schema ``public``.
        types: Type of each parameter, in their order.
        defaults: The SQL of each default; None where there is none.
        returns: Type of the result.
        is_set: It returns rows.
    """

    __slots__ = ("_defaults", "_encoders", "_function", "_select", "_texts", "decode")

    def __init__(
        self,
        function: str,
        types: Mapping[str, str],
        defaults: Sequence[str | None],
        returns: str,
        is_set: bool,
    ) -> None:
        self._function = function
        self._encoders = {name: _encoder(type_) for name, type_ in types.items()}
        self._defaults = dict(zip(types, map(_bare, defaults), strict=False))
        self.decode: Callable[[bytes], Any] = read_json
        call = f'public."{function}"({{}})'
        if is_set:
            self._select = f"select coalesce(jsonb_agg(r), '[]')::text from {call} r"  # noqa: S608 # nosec
        else:
            self._select = f"select {call}"
            if returns not in ("json", "jsonb"):
                self.decode = _as_text  # an id, or the nothing of a function without a result
        self._texts: dict[tuple[str, ...], bytes] = {}

    def of(self, params: Mapping[str, Any]) -> tuple[bytes, list[bytes | None]]:
        """Return the statement that passes these parameters, and their values.

        Raises:
            FunctionMissing: The function has no such parameter: it is older, or newer.
            InvalidArgument: A value cannot be written as JSON or text.
        """
        names = tuple(params)
        text = self._texts.get(names)
        if text is None:
            text = self._texts[names] = self._text(names)
        encoders = self._encoders
        return text, [encoders[name](value, name) for name, value in params.items()]

    def _text(self, names: tuple[str, ...]) -> bytes:
        if not self._encoders.keys() >= set(names):
            raise FunctionMissing(self._function)
        # By position, and with the defaults written out: to sort out names and defaults takes the
        # server as long as to plan the rest.
        passed = {name: f"${i}" for i, name in enumerate(names, 1)}
        arguments = [passed.get(name, default) for name, default in self._defaults.items()]
        if None in arguments:
            raise FunctionMissing(self._function)
        return self._select.format(", ".join(map(str, arguments))).encode()


def statement_of(function: str, signature: dict[str, Any]) -> Statement:
    """Return the statement of a function, from the row of `SIGNATURE`."""
    types = dict(zip(signature["names"], signature["types"], strict=False))
    return Statement(
        function, types, signature["defaults"], signature["returns"], signature["is_set"]
    )


def _bare(default: str | None) -> str | None:
    """Return a default without the cast of a literal, which the parameter's type says again.

    Of an enqueue that spares the server 6 µs.
    """
    return default and _CAST_LITERAL.sub(r"\1", default)


_CAST_LITERAL = re.compile(r"\A(NULL|'[^']*')::[a-z ]+(?:\[\])?\Z")


def _as_text(data: bytes) -> str | None:
    return data.decode() or None


def _encoder(type_: str) -> Callable[[Any, str], bytes | None]:
    if type_ in ("json", "jsonb"):
        return _json
    return _array if type_.endswith("[]") else _text


def _json(value: Any, name: str) -> bytes | None:
    return None if value is None else encode(value, name)


def _text(value: Any, name: str) -> bytes | None:
    """Write what is no text as its JSON, as PostgREST does."""
    if isinstance(value, str):
        return encode_text(value, name)
    return None if value is None else encode(value, name)


def _array(value: Any, name: str) -> bytes | None:
    """Write an array as https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO has it."""
    if not isinstance(value, list | tuple):
        return _text(value, name)  # PostgreSQL says what is wrong with it
    items = [_item(item, f"{name}[{i}]") for i, item in enumerate(value)]
    return b"{" + b",".join(items) + b"}"


def _item(value: Any, name: str) -> bytes:
    text = _text(value, name)
    if text is None:
        return b"null"
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
