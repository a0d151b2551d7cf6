"""A call as an SQL statement with named arguments."""

import json
from collections.abc import Callable, Mapping
from typing import Any

#: The parameters and the kind of result of each public function.
SIGNATURES = """
select p.proname as name, p.provolatile <> 'v' as read_only, p.proretset as is_set,
  p.prorettype = 'void'::regtype as is_void, coalesce(p.proargnames, '{}') as names,
  p.proargtypes::regtype[]::text[] as types
from pg_proc p
where p.pronamespace = 'public'::regnamespace"""
#: Sets the role and the token claims for the transaction, as PostgREST does.
SET_CALLER = "select set_config('role', {}, true), set_config('request.jwt.claims', {}, true)"


class Call:
    """A statement that calls a function, with each argument passed as text and cast to its type.

    Args:
        signature: The function's row of `SIGNATURES`, or None if it is unknown.
        function: The name of the function.
        args: The arguments by name.
    """

    def __init__(
        self, signature: Mapping[str, Any] | None, function: str, args: Mapping[str, Any]
    ) -> None:
        self.read_only = bool(signature and signature["read_only"])
        types = dict(zip(signature["names"], signature["types"], strict=False)) if signature else {}
        self.values: list[str | None] = []
        arguments = []
        for i, (name, value) in enumerate(args.items()):
            type_ = types.get(name, "text")
            self.values.append(_encode(value, type_))
            arguments.append(f'"{name}" => {{{i}}}::text::{type_}')
        call = f'public."{function}"({", ".join(arguments)})'
        self._sql = f"select to_json({call})::text"
        if signature and signature["is_void"]:
            self._sql = f"select null::text from {call}"
        elif signature and signature["is_set"]:
            self._sql = f"select coalesce(json_agg(returned), '[]')::text from {call} returned"

    def sql(self, placeholder: Callable[[int], str]) -> str:
        """Return the statement; `placeholder` gives the driver's placeholder of each argument."""
        return self._sql.format(*(placeholder(i) for i in range(len(self.values))))


def _encode(value: Any, type_: str) -> str | None:
    if value is None:
        return None
    if type_ in ("json", "jsonb") or not isinstance(value, str | list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if isinstance(value, list) and type_.endswith("[]"):
        return "{" + ",".join(json.dumps(item) for item in value) + "}"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
