"""Every function and every code over every way in: same inputs, same answers, same errors."""

import asyncio
import re
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from picture_queue import errors
from tests.conformance import pooler
from tests.conformance.matrix.case import Refusal
from tests.conformance.matrix.javascript import Chromium, Node
from tests.conformance.matrix.ours import ours
from tests.conformance.matrix.project import project_of
from tests.conformance.matrix.run import CASES, FUNCTIONS, compare, run
from tests.conformance.matrix.ways import Asyncpg, Httpx, Psycopg, SupabaseAsync, SupabaseSync

pytestmark = pytest.mark.timeout(180)

OTHERS = [
    SupabaseAsync(),
    SupabaseSync(),
    Psycopg(),
    Asyncpg(),
    *ours(direct=False),
    *ours(direct=True),
]
KINDS = {"right", "absent", "null", "wrong", "unauthorised", "repeated"}


@pytest.fixture(scope="session")
def project(stack):
    found = project_of(stack)
    yield found
    found.close()


@pytest.fixture(scope="session")
def plain_http(project):
    """The answers of plain HTTP, which those of the other ways are compared with."""
    return asyncio.run(run(project, Httpx()))


def judged(project, way, plain_http):
    """What is wrong with a way."""
    if way.direct and not project.database:
        pytest.fail("set PICTURE_QUEUE_TEST_DB_URL: it goes to the database itself", pytrace=False)
    column = asyncio.run(run(project, way))
    compare(column, plain_http)
    made = len(column.answers)
    assert made and made + len(column.left_out) == len(CASES)
    return "\n".join(f"{case}: {problem}" for case, problem in column.problems.items())


def test_plain_http_answers_as_expected(plain_http):
    assert plain_http.problems == {}


@pytest.mark.parametrize("way", OTHERS, ids=lambda way: way.name)
def test_it_answers_as_plain_http_does(project, plain_http, way):
    assert judged(project, way, plain_http) == ""


@pytest.mark.extra
def test_supabase_js_in_node_does_too(project, plain_http, node, node_modules):
    assert judged(project, Node(node, node_modules), plain_http) == ""


@pytest.mark.extra
def test_supabase_js_in_a_browser_does_too(project, plain_http, chromium, node_modules):
    assert judged(project, Chromium(chromium, node_modules), plain_http) == ""


@pytest.mark.extra
def test_a_pooler_in_transaction_mode_changes_nothing(project, stack, plain_http):
    if pooler.program() is None:
        pytest.fail(f"PgBouncer is missing: {pooler.INSTALL}", pytrace=False)
    with pooler.pooled(stack.db_url) as address:
        assert judged(project, Psycopg("pgbouncer", address), plain_http) == ""


# What has to be there


def test_every_public_function_has_its_cases(stack):
    with psycopg.connect(stack.db_url, row_factory=dict_row) as connection:
        found = connection.execute(
            """select p.proname as name, coalesce(p.proargnames[:p.pronargs], '{}') as names,
              p.proargtypes::regtype[]::text[] as types, p.pronargs - p.pronargdefaults as required,
              has_function_privilege('authenticated', p.oid, 'execute') as is_for_users
            from pg_proc p where p.pronamespace = 'public'::regnamespace and not exists (
              select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"""
        ).fetchall()
    installed = {
        row["name"]: (
            "user" if row["is_for_users"] else "service",
            [
                (name, type_, i >= row["required"])
                for i, (name, type_) in enumerate(zip(row["names"], row["types"], strict=True))
            ],
        )
        for row in found
    }
    assert installed == {
        one.name: (one.who, [(p.name, p.type, p.optional) for p in one.parameters])
        for one in FUNCTIONS
    }


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_its_cases_are_of_all_six_kinds(function):
    names = [case.id.split("/") for case in CASES if case.function == function.name]
    assert {kind for name, kind, *_ in names if name == function.name} == KINDS
    for kind in ("absent", "null", "wrong"):
        tried = {rest[0] for name, found, *rest in names if (name, found) == (function.name, kind)}
        assert tried >= {parameter.name for parameter in function.parameters}


def test_no_two_cases_have_one_name():
    assert len({case.id for case in CASES}) == len(CASES)


def test_every_code_is_met():
    met = {case.expected.code for case in CASES if isinstance(case.expected, Refusal)}
    assert met >= {error.code for error in errors.HTTP_STATUS}


def test_no_case_meets_a_code_that_the_reference_does_not_say_of_its_function():
    text = (Path(__file__).parents[2] / "docs" / "sql.md").read_text("utf-8")
    parts = re.split(r"^### `(\w+)\(", text, flags=re.MULTILINE)
    said = {
        name: set(re.findall(r"PQ_[A-Z_]+", part.split("\n## ")[0]))
        for name, part in zip(parts[1::2], parts[2::2], strict=True)
    }
    met = {
        (case.function, case.expected.code)
        for case in CASES
        if isinstance(case.expected, Refusal) and case.expected.is_ours
    }
    assert {(name, code) for name, code in met if code not in said[name]} == set()
