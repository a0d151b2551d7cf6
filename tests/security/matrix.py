"""The tables of docs/security.md, and the objects and privileges of the database."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
ROLES = ("anon", "owner", "other_user", "service")
OPERATIONS = {"r": "read", "w": "write", "x": "execute"}

_ROW = re.compile(r"\| (\w+)(:| `)(.*?)`? \| (.*) \|")


@dataclass(frozen=True)
class Rule:
    """An object and the permissions of each role.

    A cell such as `r-x` has a mark for each of read, write and execute. `-` means refused, `0` that
    the role gets the answer for an object that does not exist.
    """

    kind: str
    name: str
    cells: tuple[str, ...]


def rules(heading: str) -> list[Rule]:
    """Return the rules of the table under a heading, one for each object that a row names."""
    section = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for line in section.splitlines():
        if (row := _ROW.fullmatch(line)) is None:
            continue
        kind, _, names, cells = row.groups()
        marks = tuple(cell.strip("` ") for cell in cells.split("|"))
        for name in re.split(r"` `", names.strip()):
            found.append(Rule(kind, name, marks))
    return found


# The kinds of pg_class that can be read, written or used as a sequence.
_OBJECTS = """
select case c.relkind when 'v' then 'view' when 'm' then 'view' when 'S' then 'sequence' else 'table' end as kind,
  c.relname::text as name
from pg_class c
where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'p', 'f', 'v', 'm', 'S')
union all
select distinct 'function', p.proname::text from pg_proc p where p.pronamespace = $1::text::regnamespace
order by 1, 2
"""  # noqa: E501

# The privileges of each role. Privileges on columns count as privileges on their table.
_PRIVILEGES = """
select o.kind, o.name, r.role, string_agg(o.mark, '' order by o.mark) as marks
from unnest($2::text[]) as r (role), lateral (
  select case when c.relkind in ('v', 'm') then 'view' else 'table' end as kind, c.relname::text as name, m.mark
  from pg_class c, (values
    ('r', 'select'), ('w', 'insert'), ('w', 'update'), ('w', 'delete'), ('w', 'truncate'),
    ('w', 'references'), ('w', 'trigger')) as m (mark, privilege)
  where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'p', 'f', 'v', 'm')
    and (has_table_privilege(r.role, c.oid, m.privilege)
      or m.privilege in ('select', 'insert', 'update', 'references')
      and has_any_column_privilege(r.role, c.oid, m.privilege))
  union
  select 'sequence', c.relname, 'x' from pg_class c
  where c.relnamespace = $1::text::regnamespace and c.relkind = 'S'
    and has_sequence_privilege(r.role, c.oid, 'usage, select, update')
  union
  select 'function', p.proname, 'x' from pg_proc p
  where p.pronamespace = $1::text::regnamespace and has_function_privilege(r.role, p.oid, 'execute')
  union
  select 'usage', $1, 'x' where has_schema_privilege(r.role, $1, 'usage')
  union
  select 'usage', $1, 'w' where has_schema_privilege(r.role, $1, 'create')
) o
group by 1, 2, 3
"""  # noqa: E501


async def objects(db: Any, schema: str) -> list[tuple[str, str]]:
    """Return the kind and name of every object in a schema that a role could use."""
    return [(row["kind"], row["name"]) for row in await db.fetch(_OBJECTS, schema)]


async def privileges(db: Any, schema: str, roles: list[str]) -> dict[tuple[str, str, str], str]:
    """Return the privileges of each role: marks by kind, name and role."""
    rows = await db.fetch(_PRIVILEGES, schema, roles)
    return {(row["kind"], row["name"], row["role"]): row["marks"] for row in rows}
