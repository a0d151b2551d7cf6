"""The linters of Supabase report nothing at WARN or above for the migrated database.

`supabase db advisors` runs the lints of splinter, `supabase db lint` runs plpgsql_check. The real
CLI is used, in its versions 2 and 3. With a database URL it needs neither Docker nor a project.
"""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

pytestmark = [pytest.mark.extra, pytest.mark.timeout(180)]

#: Functions that build statements from text. Each was reviewed: the text is constant, and the names
#: of constraints, objects, roles and types are quoted. `_change_matching` and `_lock_matching` get
#: conditions from `change_jobs` and `purge_queue`, which quote all values of users with %L.
BUILT_FROM_CONSTANTS = {
    "_change_matching",
    "_check_deferred_constraints",
    "_delete_old_rows",
    "_lock_matching",
    "_revoke_grants",
    "schedule_maintenance",
}

# Lint every function, also trigger functions, which the CLI omits.
_CHECK = """
select p.proname as function, c.level, c.message, c.lineno, c.detail
from pg_proc p
join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
left join pg_trigger t on t.tgfoid = p.oid,
lateral extensions.plpgsql_check_function_tb(
  p.oid, coalesce(t.tgrelid, 0)::regclass, extra_warnings => true, security_warnings => true) c
where p.pronamespace in ('public'::regnamespace, 'picture_queue'::regnamespace)
"""


Supabase = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture(params=["supabase_cli", "supabase_cli_3"])
def supabase(request: pytest.FixtureRequest, debian: Any) -> Supabase:
    """Return a function that runs a CLI command and returns its exit status and findings."""
    cli = request.getfixturevalue(request.param)
    url = f"{debian.db_url}?sslmode=disable"
    target = [f"--remote={url}"] if request.param == "supabase_cli_3" else ["--db-url", url]

    def run(command: str, *flags: str) -> tuple[int, list[dict[str, Any]]]:
        done = subprocess.run(
            [cli, "db", command, *target, *flags, "--output-format", "json", "--agent", "no"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.stdout, done.stderr
        answer = json.loads(done.stdout)
        assert "error" not in answer, answer
        return done.returncode, answer.get("results", [])

    return run


def test_the_advisors_find_nothing_at_warn_or_above(debian, supabase):
    status, found = supabase("advisors", "--level", "info", "--fail-on", "warn")
    assert [lint for lint in found if lint["level"] != "INFO"] == []
    assert status == 0
    # The linter has run: it reports a private table, which has row level security and no policy.
    assert "picture_queue.prediction" in {
        f"{lint['metadata']['schema']}.{lint['metadata']['name']}"
        for lint in found
        if lint["name"] == "rls_enabled_no_policy"
    }


def test_the_linter_finds_nothing(debian, supabase):
    status, found = supabase("lint", "--level", "warning", "--fail-on", "warning")
    assert found == []
    assert status == 0


async def test_both_linters_find_a_planted_problem(debian, supabase):
    connection = await asyncpg.connect(debian.db_url, timeout=10)
    try:
        await connection.execute(
            """create table public.canary (id integer);
            grant select on public.canary to anon;
            create function public.canary() returns integer language plpgsql
            as $$ begin return (select nothing from public.canary); end $$"""
        )
        status, found = supabase("advisors", "--level", "warn", "--fail-on", "warn")
        assert status != 0
        assert {lint["name"] for lint in found} >= {
            "rls_disabled_in_public",
            "function_search_path_mutable",
        }
        status, found = supabase("lint", "--level", "warning", "--fail-on", "warning")
        assert status != 0
        assert [lint["function"] for lint in found] == ["public.canary"]
    finally:
        await connection.execute("drop function public.canary(); drop table public.canary")
        await connection.close(timeout=5)


async def test_no_function_builds_a_statement_from_user_input(debian):
    connection = await asyncpg.connect(debian.db_url, timeout=10)
    try:
        found = [dict(row) for row in await connection.fetch(_CHECK)]
    finally:
        await connection.close(timeout=5)
    unexpected = [
        row
        for row in found
        if not (row["level"] == "security" and row["function"] in BUILT_FROM_CONSTANTS)
    ]
    assert unexpected == []
    assert {row["function"] for row in found} == BUILT_FROM_CONSTANTS
