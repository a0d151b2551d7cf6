"""Relocation of conflicting objects into another schema; no table or function is dropped.

Objects conflict if they are in `public` and have a name that picture-queue uses. The schema
`picture_queue` of a pre-release version conflicts too. Tables keep their rows, indexes, triggers,
policies and grants. The API does not expose the new schema, and only its owner may use it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from picture_queue._resources import Migration

if TYPE_CHECKING:
    from psycopg import Connection

# The name of a table, view or function that a migration creates in `public`.
_CREATED = re.compile(r"^create (?:table|view|function) public\.(\w+)", re.MULTILINE)
_TAKEN_NAMES = (
    "select nspname from pg_catalog.pg_namespace where nspname like 'picture\\_queue\\_before%'"
)
_RELATIONS = """
select case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
  when 'f' then 'foreign table' else 'table' end, c.oid::regclass::text
from pg_catalog.pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
  and c.relname = any (%(names)s)
order by 1, 2
"""
_FUNCTIONS = """
select case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
  p.oid::regprocedure::text
from pg_catalog.pg_proc p
where p.pronamespace = 'public'::regnamespace and p.proname = any (%(names)s) and not exists (
  select from pg_catalog.pg_depend d where d.objid = p.oid and d.deptype = 'e')
order by 1, 2
"""
# Notes about objects that are not moved but still reference moved tables, and about triggers and
# publications that do not cover the new tables.
_NOTES = """
with moved as (
  select c.oid from pg_catalog.pg_class c
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
    and c.relname = any (%(names)s)
)
select format('trigger %%I moves with %%s and does not fire for new rows', t.tgname,
  t.tgrelid::regclass)
from pg_catalog.pg_trigger t join moved on moved.oid = t.tgrelid where not t.tgisinternal
union all
select format('%%s has a foreign key to %%s, which still references the old rows',
  c.conrelid::regclass, c.confrelid::regclass)
from pg_catalog.pg_constraint c join moved on moved.oid = c.confrelid
where c.contype = 'f' and c.conrelid not in (select oid from moved)
union all
select distinct format('view %%s still shows the old rows of %%s', rule.ev_class::regclass,
  dependency.refobjid::regclass)
from pg_catalog.pg_depend dependency
join pg_catalog.pg_rewrite rule on rule.oid = dependency.objid
join moved on moved.oid = dependency.refobjid
where dependency.classid = 'pg_catalog.pg_rewrite'::regclass
  and rule.ev_class not in (select oid from moved)
union all
select format('publication %%I: subscribers to changes of %%s get no more events',
  publication.pubname, published.prrelid::regclass)
from pg_catalog.pg_publication_rel published
join pg_catalog.pg_publication publication on publication.oid = published.prpubid
join moved on moved.oid = published.prrelid
union all
select format('function %%s names job_queue, which is now the new table',
  f.oid::regprocedure)
from pg_catalog.pg_proc f
join pg_catalog.pg_namespace n on n.oid = f.pronamespace
where f.prosrc ~ '\\mjob_queue\\M' and n.nspname not in ('pg_catalog', 'information_schema')
  and n.nspname not like 'picture\\_queue%%'
  and not (n.nspname = 'public' and f.proname = any (%(names)s))
order by 1
"""
# Policies of picture-queue on tables of Supabase. `relocate` drops them, and the installation
# creates them again.
_POLICIES = """
select p.polname, p.polrelid::regclass::text from pg_catalog.pg_policy p
where p.polname like 'picture_queue: %'
"""
# Whether the table of pg_cron exists. The table must belong to a role with all rights of the
# current role, since reading a table of another role could run code of that role.
_HAS_CRON = """
select exists (
  select from pg_catalog.pg_class c
  where c.oid = to_regclass('cron.job') and c.relkind = 'r'
    and pg_has_role(c.relowner, current_user, 'member'))
"""
_CRON_JOBS = """
create table {schema}.cron_job as
select * from cron.job where jobname in ('process-job-queue', 'prune-job-queue')
"""


@dataclass(frozen=True)
class Relocation:
    """The objects that were moved.

    Args:
        schema: The schema to which objects of `public` were moved.
        private: The new name of the pre-release schema `picture_queue`; None if there was none.
        moved: The kind and the old name of each moved object.
        notes: A sentence for each object that a person must review.
    """

    schema: str
    private: str | None
    moved: list[str]
    notes: list[str]


def relocate(connection: "Connection[Any]", shipped: list[Migration]) -> Relocation:
    """Move the conflicting objects, in the open transaction.

    Raises:
        psycopg.Error: An object cannot be moved, since it belongs to another role.
    """
    names = {"names": [name for file in shipped for name in _CREATED.findall(file.sql)]}
    # With an empty search path, PostgreSQL prints qualified names.
    connection.execute("set local search_path = ''")
    notes = [note for (note,) in connection.execute(_NOTES, names)]
    relations = connection.execute(_RELATIONS, names).fetchall()
    functions = connection.execute(_FUNCTIONS, names).fetchall()
    schema = _free_name(connection)
    private = _rename_private(connection, f"{schema}_private")
    connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    for kind, name in [*relations, *functions]:
        # PostgreSQL has already quoted `name`, and `kind` comes from our query.
        move = f"alter {kind} {name} set schema "
        connection.execute(sql.SQL(move) + sql.Identifier(schema))
    for policy, table in connection.execute(_POLICIES).fetchall():
        drop = sql.SQL("drop policy {} on ").format(sql.Identifier(policy))
        connection.execute(drop + sql.SQL(table))
    _copy_cron_jobs(connection, schema)
    connection.execute("set local search_path to default")
    moved = [f"{kind} {name}" for kind, name in [*relations, *functions]]
    return Relocation(schema, private, moved, notes)


def _free_name(connection: "Connection[Any]") -> str:
    taken = {name for (name,) in connection.execute(_TAKEN_NAMES)}
    name, number = "picture_queue_before", 1
    while name in taken:
        number += 1
        name = f"picture_queue_before_{number}"
    return name


def _rename_private(connection: "Connection[Any]", name: str) -> str | None:
    """Rename the schema `picture_queue` if it exists, and return its new name."""
    exists = connection.execute("select to_regnamespace('picture_queue') is not null").fetchone()
    if exists != (True,):
        return None
    connection.execute(
        sql.SQL("alter schema picture_queue rename to {}").format(sql.Identifier(name))
    )
    return name


def _copy_cron_jobs(connection: "Connection[Any]", schema: str) -> None:
    """Copy the rows of the pg_cron jobs whose names the installation reuses."""
    exists = connection.execute(_HAS_CRON).fetchone()
    if exists == (True,):
        connection.execute(sql.SQL(_CRON_JOBS).format(schema=sql.Identifier(schema)))
