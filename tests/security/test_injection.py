"""SQL injection: no text of a request is ever executed as SQL.

Each text of each call is replaced by an attack: a text that would increment a sequence if Postgres
executed it. A rollback does not reset a sequence. A syntax error, or status 500, would mean that
Postgres parsed the text.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import jwt
import pytest

from tests.security.calls import CALLS
from tests.security.sample_project import SampleProject

_INCREMENT = "nextval('public.attacks')"
#: Texts that end a literal, a statement, a name, a dollar quote or a `format`, and a plain call.
ATTACKS = (
    f"'||{_INCREMENT}||'",
    f"\\'); select {_INCREMENT}; --.",
    f'x"; select {_INCREMENT}; --.',
    f"$sql$ || {_INCREMENT} || $$ %s %L %I %1$s",
    f"({_INCREMENT})",
)
_KNOWN = re.compile(r"known fields are ([\w, ]+)")


@pytest.fixture
async def attack_counter(admin):
    """A sequence that every role may increment. The test fails if an attack incremented it."""
    await admin.execute(
        "create sequence if not exists public.attacks;"
        "grant all on sequence public.attacks to anon, authenticated, service_role"
    )

    async def is_incremented() -> bool:
        return await admin.fetchval("select is_called from public.attacks")

    yield is_incremented
    assert not await is_incremented()
    await admin.execute("drop sequence public.attacks")


async def sqlstate_of_call(
    db: Any, function: str, types: dict[str, str], arguments: dict[str, Any]
) -> str | None:
    """Call a function as PostgREST does; return the SQLSTATE of its error, or None."""
    columns = ", ".join(f"{name} {types[name]}" for name in arguments)
    named = ", ".join(f"{name} => r.{name}" for name in arguments)
    statement = f"select public.{function}({named}) from json_to_record($1) as r ({columns})"
    try:
        await db.fetch(statement, json.dumps(arguments))
    except asyncpg.PostgresError as error:
        return error.sqlstate
    return None


def variants(value: Any, attack: str) -> Iterator[Any]:
    """Yield copies of the value with the attack in one place, or as an additional key."""
    if isinstance(value, list):
        for n, entry in enumerate(value):
            for changed in variants(entry, attack):
                yield [*value[:n], changed, *value[n + 1 :]]
    elif isinstance(value, dict):
        for key, entry in value.items():
            for changed in variants(entry, attack):
                yield {**value, key: changed}
        yield {**value, attack: attack}
    else:
        yield attack


async def list_parameters(admin: Any) -> dict[str, dict[str, str]]:
    """Return the functions of the API, each with the types of its parameters by name."""
    rows = await admin.fetch(
        """select p.proname, n.name, format_type(n.type, null) as type
        from pg_proc p left join lateral unnest(p.proargnames, p.proargtypes::oid[])
          with ordinality as n (name, type, nth) on n.nth <= p.pronargs
        where p.pronamespace = 'public'::regnamespace order by 1, n.nth"""
    )
    found: dict[str, dict[str, str]] = {}
    for function, name, type_ in rows:
        found.setdefault(function, {})
        if name is not None:
            found[function][name] = type_
    return found


async def accepted_keys(
    project: SampleProject, function: str, arguments: dict[str, Any], name: str
) -> list[str]:
    """Return the keys that a parameter accepts, read from the error for an unknown key."""
    with_unknown_key = {**arguments, name: {**(arguments.get(name) or {}), "?": 1}}
    answer = await project.rpc("service", function, **with_unknown_key)
    hint = str((answer.json or {}).get("hint")) if answer.status == 400 else ""
    known = _KNOWN.search(hint)
    return re.split(r", | and ", known[1]) if known else []


async def make_attacks(
    project: SampleProject, function: str, types: dict[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return calls of a function, each with an attack in one place of one argument."""
    arguments = CALLS[function](project)
    calls = []
    for name, type_ in types.items():
        if type_ == "jsonb" and isinstance(arguments.get(name, {}), dict):
            known = await accepted_keys(project, function, arguments, name)
            base = {**dict.fromkeys(known, "x"), **(arguments.get(name) or {})}
        elif type_ in ("text", "jsonb", "text[]"):
            base = arguments.get(name) or {"text": "x", "text[]": ["x"]}.get(type_, {})
        else:
            base = "x"
        # Postgres converts numbers, times and ids before the function begins: one attack is enough.
        for attack in ATTACKS if type_ in ("text", "jsonb", "text[]") else ATTACKS[:1]:
            for changed in variants(base, attack):
                if isinstance(changed, dict) and isinstance(base, dict):
                    # Only one added key is kept: the error of one key would hide the next key.
                    tested = {
                        key: value
                        for key, value in changed.items()
                        if key in (arguments.get(name) or {}) or value != "x"
                    }
                    calls.append((name, {**arguments, name: tested}))
                else:
                    calls.append((name, {**arguments, name: changed}))
    return calls


@pytest.mark.parametrize(
    "statement", ["select '?'", "select e'?'", 'select 1 as "?"', "select ?", "select $sql$?$sql$"]
)
async def test_the_attacks_work_on_unquoted_statements(admin, statement):
    """Check that each attack works on a statement that is built without quoting."""
    await admin.execute("create sequence public.attacks")
    codes = set()
    for attack in ATTACKS:
        try:
            await admin.execute(statement.replace("?", attack))
        except asyncpg.PostgresError as error:
            codes.add(error.sqlstate)
    is_incremented = await admin.fetchval("select is_called from public.attacks")
    await admin.execute("drop sequence public.attacks")
    assert is_incremented or "42601" in codes


async def test_no_argument_of_any_function_is_executed(project, admin, attack_counter):
    tried: set[tuple[str, str]] = set()
    functions = await list_parameters(admin)
    for function, types in functions.items():
        for name, arguments in await make_attacks(project, function, types):
            code = await sqlstate_of_call(admin, function, types, arguments)
            # The error is one of ours or a failed conversion, not one of the parser or planner.
            assert code is None or code.startswith(("PT4", "22")), (function, arguments, code)
            tried.add((function, name))
        assert not await attack_counter(), function
    assert tried == {(function, name) for function, types in functions.items() for name in types}


async def test_no_argument_of_functions_for_users_is_executed(project, admin, attack_counter):
    """Run the same attacks through the API, where every user can try them."""
    users = await admin.fetch(
        """select proname from pg_proc where pronamespace = 'public'::regnamespace
        and has_function_privilege('authenticated', oid, 'execute')"""
    )
    functions = await list_parameters(admin)
    for (function,) in users:
        for _, arguments in await make_attacks(project, function, functions[function]):
            answer = await project.rpc("other_user", function, **arguments)
            assert answer.status in (200, 400, 403, 404, 409, 422), (function, arguments, answer)
            assert not str(answer.code).startswith("42"), (function, arguments, answer)
    assert len(users) >= 10


@pytest.mark.parametrize("function", ["list_jobs", "change_jobs", "failure_reasons"])
async def test_every_key_of_a_filter_is_attacked(project, function):
    """Check that the attacks include each key of the filters, which become part of a query."""
    known = await accepted_keys(project, function, CALLS[function](project), "filter")
    assert {"queue", "status", "tag", "metadata", "error", "job_ids", "created_before"} <= {*known}
    calls = await make_attacks(project, function, {"filter": "jsonb"})
    attacked = {
        key
        for _, arguments in calls
        for key, value in arguments["filter"].items()
        if any(json.dumps(attack) in json.dumps(value) for attack in ATTACKS)
    }
    assert {*known} <= attacked


@pytest.mark.parametrize("role", ["anon", "other_user", "service"])
@pytest.mark.parametrize("table", ["job_queue", "generations", "images", "failed_jobs_recent"])
async def test_no_part_of_a_query_string_or_header_is_executed(
    project, attack_counter, table, role
):
    for attack in ATTACKS:
        for query in (
            {"id": f"eq.{attack}"},
            {"id": f"in.({attack})"},
            {"select": attack},
            {"select": f"id,{attack}"},
            {"select": f"id::{attack}"},
            {"order": attack},
            {"order": f"id.{attack}"},
            {"limit": attack},
            {"or": f"(id.eq.{attack},id.is.null)"},
            {attack: "eq.1"},
            {"payload->>a": f"eq.{attack}"},
            {f"payload->{attack}": "eq.1"},
            {"job_type": f"like.{attack}"},
            {"job_type": f"fts({attack}).x"},
        ):
            answer = await project.request(role, "GET", f"/rest/v1/{table}", params=query)
            # PostgREST looks up unknown columns, with quoted names, and answers 42703.
            assert answer.status < 500, (query, answer)
            assert answer.code not in ("42601", "42P02", "42704", "42883"), (query, answer)
        headers = {
            "prefer": f"timezone={attack}",
            "range": attack,
            "accept-profile": attack,
            "x-client-info": attack,
        }
        for name, value in headers.items():
            answer = await project.request(role, "GET", f"/rest/v1/{table}", headers={name: value})
            assert answer.status < 500, (name, answer)


async def test_no_name_in_storage_is_executed(project, attack_counter):
    for attack in ATTACKS:
        for method, path, content in (
            ("GET", "object/pictures/", {}),
            ("POST", "object/list/pictures", {"json": {"prefix": attack, "search": attack}}),
            (
                "POST",
                "object/list/pictures",
                {"json": {"prefix": "", "sortBy": {"column": attack, "order": attack}}},
            ),
            ("DELETE", "object/pictures", {"json": {"prefixes": [attack]}}),
            ("POST", "object/sign/pictures", {"json": {"expiresIn": 60, "paths": [attack]}}),
            ("POST", "bucket", {"json": {"name": attack}}),
        ):
            answer = await project.request("service", method, f"/storage/v1/{path}", **content)
            assert answer.status < 500, (path, answer)
        params = {"search": attack, "sortColumn": attack, "sortOrder": attack}
        answer = await project.request("service", "GET", "/storage/v1/bucket", params=params)
        assert answer.status < 500, answer


async def test_no_claim_of_a_token_is_executed(project, admin, attack_counter, sandbox):
    """Change the claims that policies read; a sub that is not a uuid selects no rows."""
    for attack in ATTACKS:
        claims = {"role": "authenticated", "sub": attack, "email": attack, "exp": 4102444800}
        token = jwt.encode(claims, sandbox.jwt_secret, algorithm="HS256")
        headers = {"apikey": sandbox.anon_key, "authorization": f"Bearer {token}"}
        for path in ("job_queue", "rpc/list_jobs", "rpc/start_generation"):
            method = "POST" if "/" in path else "GET"
            content = {"prompt": "x"} if "start" in path else {}
            answer = await project.http.request(
                method, f"/rest/v1/{path}", headers=headers, json=content or None
            )
            assert answer.status_code < 500, answer.text
            assert answer.status_code != 200 or answer.json() == []
