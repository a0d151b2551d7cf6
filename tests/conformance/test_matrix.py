"""Every interface gives the same answers and errors, for each function and each error code."""

import asyncio
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from picture_queue import errors
from tests.conformance import pooler
from tests.conformance.matrix.answer import (
    Answer,
    describe_difference,
    error_answer,
    select_compared_part,
)
from tests.conformance.matrix.case import Case, ExpectedError, our_error
from tests.conformance.matrix.interfaces import Asyncpg, Httpx, Psycopg, SupabaseAsync, SupabaseSync
from tests.conformance.matrix.javascript import Chromium, Node, _Site
from tests.conformance.matrix.ours import our_clients
from tests.conformance.matrix.project import open_project
from tests.conformance.matrix.run import CASES, FUNCTIONS, Column, compare, run

pytestmark = pytest.mark.timeout(180)

INTERFACES = [
    SupabaseAsync(),
    SupabaseSync(),
    Psycopg(),
    Asyncpg(),
    *our_clients(direct=False),
    *our_clients(direct=True),
]
KINDS_OF_CASES = {"right", "absent", "null", "wrong", "unauthorised", "repeated"}


@pytest.fixture(scope="session")
def project(stack):
    opened = open_project(stack)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def plain_http(project):
    """The answers of plain HTTP, with which the answers of all other interfaces are compared."""
    return asyncio.run(run(project, Httpx()))


def find_differences(project, interface, plain_http):
    """Return the differences of the answers of an interface from the expected answers, as text."""
    if interface.direct and not project.database:
        pytest.fail(
            "set PICTURE_QUEUE_TEST_DB_URL: this interface connects to the database directly",
            pytrace=False,
        )
    column = asyncio.run(run(project, interface))
    compare(column, plain_http)
    ran = len(column.answers)
    assert ran and ran + len(column.left_out) == len(CASES)
    return "\n".join(f"{case}: {problem}" for case, problem in column.problems.items())


def test_plain_http_answers_as_expected(plain_http):
    assert plain_http.problems == {}


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda interface: interface.name)
def test_an_interface_answers_like_plain_http(project, plain_http, interface):
    assert find_differences(project, interface, plain_http) == ""


@pytest.mark.extra
def test_supabase_js_in_node_answers_like_plain_http(project, plain_http, node, node_modules):
    assert find_differences(project, Node(node, node_modules), plain_http) == ""


@pytest.mark.extra
def test_supabase_js_in_a_browser_answers_like_plain_http(
    project, plain_http, chromium, node_modules
):
    assert find_differences(project, Chromium(chromium, node_modules), plain_http) == ""


@pytest.mark.extra
def test_a_pooler_in_transaction_mode_answers_like_plain_http(project, stack, plain_http):
    if pooler.find_pgbouncer() is None:
        pytest.fail(f"PgBouncer is missing: {pooler.INSTALL_COMMAND}", pytrace=False)
    with pooler.run_pgbouncer(stack.db_url) as address:
        assert find_differences(project, Psycopg("pgbouncer", address), plain_http) == ""


def test_the_page_with_the_api_keys_has_an_unguessable_address():
    with _Site(b"script", {"key": "sesame"}) as address, httpx.Client(trust_env=False) as http:
        origin = address.rsplit("/", 2)[0]
        assert len(address) > len(origin) + 40
        for path in ("", "/", "/task", "/script.js", "/x/task"):
            assert http.get(origin + path).status_code == 404
        assert http.post(f"{origin}/answers", json={}).status_code == 404
        assert http.get(f"{address}task").json() == {"key": "sesame"}
        assert http.get(f"{address}script.js").text == "script"


@pytest.mark.extra
def test_node_loads_no_package_of_another_user(node, tmp_path):
    """Check that scripts/own_modules.cjs applies.

    Without it, Node loads packages from all directories above a script. For a clone below /tmp,
    these include /tmp/node_modules, which any user can create.
    """
    for directory, name in ((tmp_path, "foreign"), (tmp_path / "clone", "mine")):
        package = directory / "node_modules" / name
        package.mkdir(parents=True)
        (package / "index.js").write_text(f'console.log("{name}")')
    tmp_path.chmod(0o1777)  # The mode of /tmp: every user can create files.
    script = tmp_path / "clone" / "script.cjs"
    script.write_text('require("mine"); require("foreign")')
    process = subprocess.run([node, script], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (1, "mine\n")
    assert "Cannot find module 'foreign'" in process.stderr


# --- Detection of differences ---


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ({"a": 1}, {"a": 2, "b": 1}),
        ({"a": 1}, {"b": 1}),
        ([{"a": 1}], []),
        ([], [1]),
        (True, 1),
        (1, 1.5),
        (None, []),
        (our_error("PQ_BUSY"), None),
    ],
)
def test_an_unexpected_answer_is_reported(expected, answer):
    case = Case("f/right", "f", "service", {}, expected)
    assert describe_difference(case, select_compared_part(case, Answer(data=answer), {}))


def test_a_wrong_status_or_code_is_reported():
    case = Case("f/null/a", "f", "service", {}, our_error("PQ_UNKNOWN_JOB"))
    right = error_answer("PT404", "PQ_UNKNOWN_JOB: no such job", "job_id is 7", None)
    assert describe_difference(case, select_compared_part(case, right, {})) is None
    for wrong in (
        replace(right, status=400),
        replace(right, code="PQ_CONFLICT"),
        Answer(data=None),
    ):
        assert describe_difference(case, select_compared_part(case, wrong, {}))


def test_different_answers_of_two_interfaces_are_reported():
    case = Case("f/null/a", "f", "service", {}, our_error("PQ_UNKNOWN_JOB"))
    job_id = "0b1e7a52-8a39-4f9e-9a54-0d8d4f0f9d7e"
    placeholders = {"job": job_id}
    failed = error_answer("PT404", "PQ_UNKNOWN_JOB: no such job", f"job_id is {job_id}", None)
    reference = Column("httpx", {case.id: select_compared_part(case, failed, placeholders)})
    for answer, expected_problems in (
        (replace(failed, status=None), 0),  # Some interfaces do not return the status.
        (replace(failed, detail="job_id is 8"), 1),
        (replace(failed, hint="list_jobs()"), 1),
    ):
        column = Column("other", {case.id: select_compared_part(case, answer, placeholders)})
        compare(column, reference)
        assert len(column.problems) == expected_problems


# --- Completeness of the cases ---


def test_every_public_function_is_described_as_installed(stack):
    with psycopg.connect(stack.db_url, row_factory=dict_row) as connection:
        rows = connection.execute(
            """select p.proname as name, coalesce(p.proargnames[:p.pronargs], '{}') as names,
              p.proargtypes::regtype[]::text[] as types, p.pronargs - p.pronargdefaults as required,
              has_function_privilege('authenticated', p.oid, 'execute') as is_for_users,
              p.provolatile <> 'v' as read_only
            from pg_proc p where p.pronamespace = 'public'::regnamespace and not exists (
              select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"""
        ).fetchall()
    installed = {
        row["name"]: (
            "user" if row["is_for_users"] else "service",
            row["read_only"],
            [
                (name, type_, position >= row["required"])
                for position, (name, type_) in enumerate(
                    zip(row["names"], row["types"], strict=True)
                )
            ],
        )
        for row in rows
    }
    assert installed == {
        function.name: (
            function.callers,
            function.read_only,
            [(p.name, p.type, p.optional) for p in function.parameters],
        )
        for function in FUNCTIONS
    }


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_a_function_has_cases_of_all_six_kinds(function):
    names = [case.id.split("/") for case in CASES if case.function == function.name]
    assert {kind for name, kind, *_ in names if name == function.name} == KINDS_OF_CASES
    for kind in ("absent", "null", "wrong"):
        tested = {
            rest[0]
            for name, case_kind, *rest in names
            if (name, case_kind) == (function.name, kind)
        }
        assert tested >= {parameter.name for parameter in function.parameters}


def test_case_ids_are_unique():
    assert len({case.id for case in CASES}) == len(CASES)


def test_every_code_has_a_case():
    tested = {case.expected.code for case in CASES if isinstance(case.expected, ExpectedError)}
    assert tested >= errors.BY_CODE.keys()


def test_the_sql_reference_lists_every_error_code_that_a_function_raises_in_a_case():
    page = (Path(__file__).parents[2] / "docs" / "sql.md").read_text("utf-8")
    # The text before the first function, and then the name and the section of each function.
    parts = re.split(r"^### `(\w+)\(", page, flags=re.MULTILINE)
    documented = {
        name: set(re.findall(r"PQ_[A-Z_]+", section.split("\n## ")[0]))
        for name, section in zip(parts[1::2], parts[2::2], strict=True)
    }
    tested = {
        (case.function, case.expected.code)
        for case in CASES
        if isinstance(case.expected, ExpectedError) and case.expected.is_ours
    }
    assert {(name, code) for name, code in tested if code not in documented[name]} == set()
