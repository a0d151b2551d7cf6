"""No argument is too long, too deep, too wide or too large to be refused as one of ours.

Each place of each argument of each function gets each extreme in turn. The function refuses it in
its own words, or takes it; and what it takes and keeps is bounded.
"""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.security.calls import CALLS
from tests.security.test_injection import keys, parameters
from tests.security.world import World

#: Stands for an extreme in JSON that Python would not write.
_PLACE = "\ue000place\ue000"

#: What nobody may store, or make the database work on.
BEYOND = {
    "long": json.dumps("x" * 300_000),
    "digits": "1" + "0" * 5000,
    "deep": "[" * 1500 + "]" * 1500,
    "deep object": '{"a":' * 1500 + "1" + "}" * 1500,
    "wide": json.dumps(["x"] * 110_000),
    "names": json.dumps({f"k{n}": n for n in range(20_000)}),
    "long name": json.dumps({"k" * 300_000: 1}),
}
#: What is odd and may be fine.
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
#: Text takes any of these as text, and others are converted before the function begins.
EXTREMES = {
    "text": ("long", "empty", "control"),
    "jsonb": (*BEYOND, *ODD),
    "text[]": ("long", "deep", "wide", "nulls", "empty"),
}
OTHERS = ("long", "minus", "int8", "infinity", "far")


def places(value: Any) -> Iterator[Any]:
    """The value with one thing in it, or one more name, that is an extreme."""
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
    """Calls of a function with the place of an extreme in each argument in turn."""
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
    """Call a function with arguments from JSON, as PostgREST does; the SQLSTATE if it fails."""
    columns = ", ".join(f"{name} {types[name]}" for name in arguments)
    named = ", ".join(f"{name} => r.{name}" for name in arguments)
    statement = f"select public.{function}({named}) from json_to_record($1) as r ({columns})"
    text = json.dumps(arguments, ensure_ascii=False)
    name_only = f'"{_PLACE}":'
    # As a name only text will do.
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
    """Columns that hold what a reader cannot read, or more than the settings permit."""
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
async def test_what_is_beyond_every_bound_is_refused(world: World, admin: Any, function: str):
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
