"""The SQL reference and the state diagram, compared with the database."""

import re
from pathlib import Path

import pytest

from picture_queue import errors

DOCS = Path(__file__).parents[2] / "docs"
SQL = (DOCS / "sql.md").read_text("utf-8")
STATES = (DOCS / "states.md").read_text("utf-8")


def section(text: str, title: str) -> str:
    """Return the text under a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert found, title
    return found[1]


def names_in_tables(text: str) -> set[str]:
    """Return the names in the first columns of the tables of a text."""
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def documented_signature(name: str, arguments: str) -> str:
    """Return the signature of a function as the reference writes it."""
    text = arguments.replace("timestamp with time zone", "timestamptz")
    text = re.sub(
        r" DEFAULT ([^,]*?\(\)|'[^']*'|[^,:]+)(::[a-z\[\] ]+)?(?=,|$)",
        lambda found: " = " + found[1].strip("'").replace("NULL", "null"),
        text,
    )
    return f"{name}({text})"


async def test_the_reference_has_every_signature_and_its_callers(db):
    functions = await db.rows(
        """select p.proname as name, pg_get_function_arguments(p.oid) as arguments,
          has_function_privilege('authenticated', p.oid, 'execute') as for_users
        from pg_proc p where p.pronamespace = 'public'::regnamespace and not exists (
          select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"""
    )
    entries = dict(re.findall(r"^### `([^\n]*)`\n(.*?)(?=^##)", SQL, re.S | re.M))
    assert entries.keys() == {documented_signature(f["name"], f["arguments"]) for f in functions}
    for function in functions:
        entry = entries[documented_signature(function["name"], function["arguments"])]
        callers = "user" if function["for_users"] else "service"
        assert f"**{callers}** →" in entry, function["name"]
        codes = set(re.findall(r"`(PQ_\w+)`", entry))
        assert codes <= errors.BY_CODE.keys()


async def test_the_reference_lists_every_setting(db):
    columns = """select column_name from information_schema.columns
      where table_name = $1 and table_schema = 'picture_queue'"""
    setting = {row["column_name"] for row in await db.rows(columns, "setting")}
    documented = names_in_tables(section(SQL, "Settings")) - {"create", "refuse"}
    assert documented == setting - {"only_row"}
    queue = {row["column_name"] for row in await db.rows(columns, "queue")}
    not_settings = {"name", "paused_until", "pause_reason", "created_at"}
    not_settings |= {"reorder_after", "reorder_again_at"}  # These columns are internal.
    assert names_in_tables(section(SQL, "Queue settings")) == queue - not_settings


@pytest.mark.parametrize(("function", "part"), [("_check_jobs", 0), ("_options_problem", 1)])
async def test_the_reference_lists_every_field_of_an_item(db, function, part):
    text = section(SQL, "Items").split("in `options`")[part]
    source = await db.value(
        """select prosrc from pg_proc
        where proname = $1 and pronamespace = 'picture_queue'::regnamespace""",
        function,
    )
    # Both functions refuse fields that this literal does not list.
    fields = re.search(r"'\{\n(.*?)\}'", source, re.S)
    assert fields
    # Only start_generation sets generation_id.
    assert names_in_tables(text) == set(re.findall(r'"(\w+)": \[', fields[1])) - {"generation_id"}


async def test_the_reference_lists_every_filter(db):
    source = await db.value("select prosrc from pg_proc where proname = '_jobs_where'")
    fields = re.search(r"'\{\n(.*?)\}'", source, re.S)
    assert fields
    assert names_in_tables(section(SQL, "Filters")) == set(re.findall(r'"(\w+)": \[', fields[1]))


def test_the_reference_lists_the_errors_of_the_library():
    rows = re.findall(r"^\| `(PQ_\w+)` \| (\d+) \| `(\w+)` \|", SQL, re.M)
    assert rows == [
        (code, str(error.http_status), error.__name__) for code, error in errors.BY_CODE.items()
    ]


async def test_the_documented_transitions_equal_the_transitions_in_the_database(db):
    transitions = await db.rows(
        """select action, coalesce(from_hold, from_status) as "from",
          coalesce(to_hold, to_status) as "to", attempt_delta as delta
        from picture_queue.state_transition"""
    )
    sign = {0: "", 1: "+1", -1: "−1"}
    rows = re.findall(
        r"^\| (\w+) \| (\w+) \| (\w+) \| ?(\S*) \|", section(STATES, "Transitions"), re.M
    )
    assert sorted(rows[1:]) == sorted(
        (transition["action"], transition["from"], transition["to"], sign[transition["delta"]])
        for transition in transitions
    )
    arrows: dict[tuple[str, str], set[str]] = {}
    for start, end, actions in re.findall(r"^    (\w+) --> (\w+) : (.*)$", STATES, re.M):
        arrows[start, end] = set(actions.split(", "))
    expected: dict[tuple[str, str], set[str]] = {}
    for transition in transitions:
        expected.setdefault((transition["from"], transition["to"]), set()).add(transition["action"])
    assert arrows == expected
