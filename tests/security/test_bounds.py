"""Arguments that are too long, too deep, too wide or too large are refused with a PQ error.

Each extreme value is put in turn in each place of each argument of each function. The function
either refuses it with its own error, or accepts it; and everything that it stores is bounded.
"""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.security.calls import CALLS
from tests.security.test_injection import keys, parameters
from tests.security.world import World

#: A placeholder for an extreme value in JSON that Python would not write.
_PLACE = "\ue000place\ue000"

#: Values that must neither be stored nor cause work in the database.
BEYOND = {
    "long": json.dumps("x" * 300_000),
    "digits": "1" + "0" * 5000,
    "deep": "[" * 1500 + "]" * 1500,
    "deep object": '{"a":' * 1500 + "1" + "}" * 1500,
    "wide": json.dumps(["x"] * 110_000),
    "names": json.dumps({f"k{n}": n for n in range(20_000)}),
    "long name": json.dumps({"k" * 300_000: 1}),
}
#: Unusual values that may be valid.
ODD = {
    "empty": '""',
    "control": json.dumps("\u0001\x1b[31m\u202e\x7f"),
    "true": "true",
    "object": "{}",
    "nulls": "[null]",
    "minus": "-1",
    "int8": str(2**63),
    "fraction": "0.5",
    "small": "1e-5000",
    "infinity": '"infinity"',
    "far": '"294276-12-31T23:59:59Z"',
}
#: A text parameter accepts any of these; others are converted before the function begins.
EXTREMES = {
    "text": ("long", "empty", "control"),
    "jsonb": (*BEYOND, *ODD),
    "text[]": ("long", "deep", "wide", "nulls", "empty"),
}
OTHERS = ("long", "minus", "int8", "infinity", "far")


def places(value: Any) -> Iterator[Any]:
    """Yield the value with an extreme value in one place, or as one more name."""
    if isinstance(value, list):
        for n, entry in enumerate(value):
            for changed in places(entry):
                yield [*value[:n], changed, *value[n + 1 :]]
        yield [*value, _PLACE]
    elif isinstance(value, dict):
        for key, entry in value.items():
            for changed in places(entry):
                yield {**value, key: changed}
        yield {**value, "unknown": _PLACE}
        yield {**value, _PLACE: 1}
    if value != _PLACE:
        yield _PLACE


async def calls(
    world: World, function: str, types: dict[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """Yield calls of a function with a placeholder in each place of each argument in turn."""
    usual = CALLS[function](world)
    found = []
    for name, type_ in types.items():
        base = usual.get(name)
        if type_ == "jsonb" and isinstance(base, dict | None):
            for key in await keys(world, function, usual, name):
                found.append((name, {**usual, name: {**(base or {}), key: _PLACE}}))
        found += [(name, {**usual, name: changed}) for changed in places(base)]
    return found


async def refusal(
    db: Any, function: str, types: dict[str, str], arguments: dict[str, Any], extreme: str
) -> str | None:
    """Call a function with arguments from JSON, like PostgREST; return an SQLSTATE."""
    columns = ", ".join(f"{name} {types[name]}" for name in arguments)
    named = ", ".join(f"{name} => r.{name}" for name in arguments)
    statement = f"select public.{function}({named}) from json_to_record($1) as r ({columns})"
    text = json.dumps(arguments, ensure_ascii=False)
    name_only = f'"{_PLACE}":'
    # Only text can be a name.
    text = text.replace(name_only, f"{BEYOND['long']}:").replace(f'"{_PLACE}"', extreme)
    savepoint = db.transaction()
    await savepoint.start()
    try:
        await db.fetch(statement, text)
        assert await too_large(db) == [], (function, arguments, extreme[:40])
    except asyncpg.PostgresError as error:
        return f"{error.sqlstate} {error}"[:150]
    finally:
        await savepoint.rollback()
    return None


async def too_large(db: Any) -> list[str]:
    """Return columns with values that clients cannot read, or that exceed the settings."""
    columns = await db.fetch(
        """select c.oid::regclass::text as "table", quote_ident(a.attname) as "column",
          a.atttypid = 'jsonb'::regtype as is_json,
          case a.attname when 'result' then 1048576 else 70000 end as bytes
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
          and c.relnamespace in ('public'::regnamespace, 'picture_queue'::regnamespace)
          and a.atttypid in ('text'::regtype, 'text[]'::regtype, 'jsonb'::regtype)"""
    )
    query = " union all ".join(
        f"select '{row['table']}.{row['column']}' from {row['table']} where "
        + (
            f"picture_queue._json_problem({row['column']}, {row['bytes']}) is not null"
            if row["is_json"]
            else f"octet_length({row['column']}::text) > {row['bytes']}"
        )
        for row in columns
    )
    return [row[0] for row in await db.fetch(query)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("function", CALLS)
async def test_extreme_values_are_refused(world: World, admin: Any, function: str):
    types = (await parameters(admin))[function]
    raw = []
    outer = admin.transaction()
    await outer.start()
    await admin.execute("set local statement_timeout = '20s'")
    try:
        for name, arguments in await calls(world, function, types):
            for kind in EXTREMES.get(types[name], OTHERS):
                extreme = (BEYOND | ODD)[kind]
                code = await refusal(admin, function, types, arguments, extreme)
                # A number, a time, an id or a list is converted before the function begins.
                converted = types[name] not in ("text", "jsonb")
                if code and not code.startswith(("PT4", "22", "54") if converted else "PT4"):
                    raw.append((name, json.dumps(arguments[name])[:200], kind, code))
    finally:
        await outer.rollback()
    assert raw == []
