"""Arguments that are too long, too deep, too wide or too large are refused with a PQ error.

The test puts each extreme value into each place of each argument of each function, one at a time.
The function must refuse the value with a PQ error, or store nothing that exceeds the limits.
"""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.security.calls import CALLS
from tests.security.sample_project import SampleProject
from tests.security.test_injection import accepted_keys, list_parameters

#: A placeholder for an extreme value. The value itself may be JSON that `json.dumps` cannot write.
_PLACEHOLDER = "\ue000placeholder\ue000"

#: Values that are too large for any argument.
TOO_LARGE = {
    "long": json.dumps("x" * 300_000),
    "digits": "1" + "0" * 5000,
    "deep": "[" * 1500 + "]" * 1500,
    "deep object": '{"a":' * 1500 + "1" + "}" * 1500,
    "wide": json.dumps(["x"] * 110_000),
    "names": json.dumps({f"k{n}": n for n in range(20_000)}),
    "long name": json.dumps({"k" * 300_000: 1}),
}
#: Unusual values that may be valid.
UNUSUAL = {
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
#: The values to try, by the type of the parameter.
EXTREMES = {
    "text": ("long", "empty", "control"),
    "jsonb": (*TOO_LARGE, *UNUSUAL),
    "text[]": ("long", "deep", "wide", "nulls", "empty"),
}
#: The values for parameters of all other types. Postgres converts them before the call.
OTHER_EXTREMES = ("long", "minus", "int8", "infinity", "far")


def insert_placeholder(value: Any) -> Iterator[Any]:
    """Yield copies of the value with the placeholder in one place, or as an additional key."""
    if isinstance(value, list):
        for n, entry in enumerate(value):
            for changed in insert_placeholder(entry):
                yield [*value[:n], changed, *value[n + 1 :]]
        yield [*value, _PLACEHOLDER]
    elif isinstance(value, dict):
        for key, entry in value.items():
            for changed in insert_placeholder(entry):
                yield {**value, key: changed}
        yield {**value, "unknown": _PLACEHOLDER}
        yield {**value, _PLACEHOLDER: 1}
    if value != _PLACEHOLDER:
        yield _PLACEHOLDER


async def make_calls(
    project: SampleProject, function: str, types: dict[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return calls of a function, each with the placeholder in one place of one argument."""
    valid = CALLS[function](project)
    found = []
    for name, type_ in types.items():
        base = valid.get(name)
        if type_ == "jsonb" and isinstance(base, dict | None):
            for key in await accepted_keys(project, function, valid, name):
                found.append((name, {**valid, name: {**(base or {}), key: _PLACEHOLDER}}))
        found += [(name, {**valid, name: changed}) for changed in insert_placeholder(base)]
    return found


async def call_with(
    db: Any, function: str, types: dict[str, str], arguments: dict[str, Any], extreme: str
) -> str | None:
    """Call a function as PostgREST does, with arguments from JSON; return its error, or None."""
    columns = ", ".join(f"{name} {types[name]}" for name in arguments)
    named = ", ".join(f"{name} => r.{name}" for name in arguments)
    statement = f"select public.{function}({named}) from json_to_record($1) as r ({columns})"
    text = json.dumps(arguments, ensure_ascii=False)
    name_only = f'"{_PLACEHOLDER}":'
    # A name in JSON is always a string, so a long string replaces this placeholder.
    text = text.replace(name_only, f"{TOO_LARGE['long']}:").replace(f'"{_PLACEHOLDER}"', extreme)
    savepoint = db.transaction()
    await savepoint.start()
    try:
        await db.fetch(statement, text)
        assert await find_oversized_columns(db) == [], (function, arguments, extreme[:40])
    except asyncpg.PostgresError as error:
        return f"{error.sqlstate} {error}"[:150]
    finally:
        await savepoint.rollback()
    return None


async def find_oversized_columns(db: Any) -> list[str]:
    """Return the columns that hold a value above the limits of the settings or of clients."""
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
async def test_extreme_values_are_refused_or_stored_within_limits(
    project: SampleProject, admin: Any, function: str
):
    types = (await list_parameters(admin))[function]
    wrong = []
    outer = admin.transaction()
    await outer.start()
    await admin.execute("set local statement_timeout = '20s'")
    try:
        for name, arguments in await make_calls(project, function, types):
            for kind in EXTREMES.get(types[name], OTHER_EXTREMES):
                extreme = (TOO_LARGE | UNUSUAL)[kind]
                code = await call_with(admin, function, types, arguments, extreme)
                # For other types, the conversion by Postgres may fail before the function begins.
                is_converted = types[name] not in ("text", "jsonb")
                if code and not code.startswith(("PT4", "22", "54") if is_converted else "PT4"):
                    wrong.append((name, json.dumps(arguments[name])[:200], kind, code))
    finally:
        await outer.rollback()
    assert wrong == []
