"""Copying the jobs from the relocated tables into the new tables.

From a pre-release version of picture-queue, every table is copied, with the columns that both
versions have. From another system, only jobs are copied: ids, payloads, states, attempts and times.
A running job gets a lease of ten minutes, under which its old worker may still complete it with
`complete_job`.
"""

from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

from psycopg import sql

from picture_queue.errors import InstallationRefused
from picture_queue.installation.relocate import Relocation

if TYPE_CHECKING:
    from psycopg import Connection

# Tables that the installation fills, that are recounted after the copy, or that are partitioned.
_NOT_COPIED = {"state_transition", "migration", "depth", "depth_change", "archive"}
_COLUMNS = """
select a.attname, format_type(a.atttypid, null)
from pg_catalog.pg_attribute a
where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
_TABLES = """
select c.oid::regclass::text, c.relname::text, n.nspname::text from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and (n.nspname = 'picture_queue'
  or (n.nspname = 'public' and c.relname in ('job_queue', 'generations', 'images')))
"""
_REFERENCES = """
select c.conrelid::regclass::text, c.confrelid::regclass::text from pg_catalog.pg_constraint c
where c.contype = 'f' and c.conrelid <> c.confrelid
"""
# Identity columns were copied, so their sequences must continue after the copied values.
_ADVANCE_SEQUENCE = """
select pg_catalog.setval(pg_catalog.pg_get_serial_sequence({name}, {column}),
  (select max({identifier}) from {table})) where exists (select from {table})
"""
_IDENTITY_COLUMNS = """
select a.attname from pg_catalog.pg_attribute a
where a.attrelid = to_regclass(%s) and a.attidentity <> '' and not a.attisdropped
"""
STATES = ("pending", "processing", "completed", "failed", "cancelled")
# The names that other systems use for each of our columns; the first name that exists is used.
_COLUMN_NAMES = {
    "job_type": ("job_type", "type"),
    "payload": ("payload", "data"),
    "priority": ("priority",),
    "status": ("status",),
    "attempt": ("attempt", "attempts", "attempt_count", "retry_count"),
    "max_attempts": ("max_attempts", "max_retries"),
    "scheduled_for": ("scheduled_for", "scheduled_at", "run_at", "next_retry_at"),
    "result": ("result",),
    "error": ("error", "error_message", "last_error"),
    "user_id": ("user_id",),
    "created_at": ("created_at",),
    "updated_at": ("updated_at",),
    "started_at": ("started_at", "locked_at", "claimed_at"),
    "finished_at": ("finished_at", "completed_at"),
}
_INSERT = """
insert into public.job_queue (id, job_type, payload, priority, rank, status, hold, attempt,
  max_attempts, scheduled_for, result, error, user_id, created_at, updated_at, started_at,
  finished_at, lease_id, lease_expires_at, lease_seconds, lease_is_legacy, worker, metadata)
select o.id, o.job_type,
  case when jsonb_typeof(o.payload) = 'object' then o.payload
    else jsonb_build_object('value', o.payload) end,
  o.priority, -o.priority, o.status,
  case when o.status = 'pending' and o.scheduled_for > now() then 'scheduled' end,
  greatest(o.attempt, 0), greatest(o.max_attempts, 1), o.scheduled_for, o.result, o.error,
  o.user_id, o.created_at, o.updated_at, o.started_at,
  case when o.status in ('completed', 'failed', 'cancelled')
    then coalesce(o.finished_at, o.updated_at) end,
  case when o.status = 'processing' then gen_random_uuid() end,
  case when o.status = 'processing' then now() + interval '10 minutes' end,
  case when o.status = 'processing' then 600 end, o.status = 'processing',
  case when o.status = 'processing' then 'adopted' end,
  case when o.old_id is null then '{{}}' else jsonb_build_object('adopted_id', o.old_id) end
from (select {columns} from {table} o) o
order by o.created_at, o.id
"""


def copy_jobs(connection: "Connection[Any]", relocation: Relocation) -> dict[str, int]:
    """Copy the relocated jobs, in the open transaction.

    Returns:
        The number of rows copied from each table.

    Raises:
        InstallationRefused: A job has an unknown state, or would be lost.
        psycopg.Error: A row violates a constraint of the new table.
    """
    old_table = f"{relocation.schema}.job_queue"
    if not _columns(connection, old_table):
        return {}
    is_prerelease = relocation.private is not None
    if is_prerelease:
        copied = _copy_tables(connection, relocation)
    else:
        copied = _copy_foreign_jobs(connection, old_table)
    connection.execute("select picture_queue.repair()")
    _expect_all_copied(connection, old_table)
    return copied


def count_by_state(connection: "Connection[Any]", table: str) -> dict[str, int]:
    """Count the jobs of a table by state."""
    query = sql.SQL("select status::text, count(*) from {} group by 1 order by 1")
    return dict(connection.execute(query.format(_identifier(table))).fetchall())


def _copy_tables(connection: "Connection[Any]", relocation: Relocation) -> dict[str, int]:
    """Copy every table that both schemas have, referenced tables first."""
    tables = {name: (table, schema) for name, table, schema in connection.execute(_TABLES)}
    order: TopologicalSorter[str] = TopologicalSorter({name: set() for name in tables})
    for child, parent in connection.execute(_REFERENCES):
        if child in tables and parent in tables:
            order.add(child, parent)
    copied = {}
    for name in order.static_order():
        table, schema = tables[name]
        source = f"{relocation.private if schema == 'picture_queue' else relocation.schema}.{table}"
        if table in _NOT_COPIED or not (old_columns := _columns(connection, source)):
            continue
        copied[table] = _copy_table(connection, f"{schema}.{table}", source, old_columns)
    return copied


def _copy_table(
    connection: "Connection[Any]", target: str, source: str, old_columns: Mapping[str, str]
) -> int:
    """Replace the rows that the installation wrote with the old rows; return their number.

    Models that only the new version has are kept.
    """
    expressions: dict[str, sql.Composable] = {
        name: sql.Identifier(name) for name in _columns(connection, target) if name in old_columns
    }
    if target == "public.job_queue" and "rank" not in old_columns:
        expressions["rank"] = sql.SQL("-priority")  # older versions claimed by priority only
    if target == "public.job_queue" and "parked_at" not in old_columns:
        expressions["parked_at"] = sql.SQL("updated_at")
    if target != "picture_queue.model":
        connection.execute(sql.SQL("delete from {} where true").format(_identifier(target)))
    query = sql.SQL(
        "insert into {} ({}) overriding system value select {} from {} on conflict do nothing"
    )
    copied = connection.execute(
        query.format(
            _identifier(target),
            sql.SQL(", ").join(map(sql.Identifier, expressions)),
            sql.SQL(", ").join(expressions.values()),
            _identifier(source),
        )
    ).rowcount
    for (column,) in connection.execute(_IDENTITY_COLUMNS, (target,)).fetchall():
        advance = sql.SQL(_ADVANCE_SEQUENCE).format(
            name=sql.Literal(target),
            column=sql.Literal(column),
            identifier=sql.Identifier(column),
            table=_identifier(target),
        )
        connection.execute(advance)
    return copied


def _copy_foreign_jobs(connection: "Connection[Any]", table: str) -> dict[str, int]:
    """Copy the jobs of another system."""
    types = _columns(connection, table)
    if "status" not in types or not {"job_type", "type"} & types.keys():
        raise InstallationRefused(
            "public.job_queue has no columns status and job_type, so it is not a job queue",
            hint="Rename that table, then run: picture-queue migrate",
        )
    unknown = sorted(str(state) for state in count_by_state(connection, table).keys() - set(STATES))
    if unknown:
        raise InstallationRefused(
            f"Jobs have unknown states: {', '.join(unknown)}",
            hint=f"Set them to one of {', '.join(STATES)} first",
        )
    query = sql.SQL(_INSERT).format(columns=_expressions(types), table=_identifier(table))
    return {"job_queue": connection.execute(query).rowcount}


def _expressions(types: dict[str, str]) -> sql.Composable:
    """Return the SQL expressions that convert an old row to our columns.

    Args:
        types: The type of each column of the old table.
    """

    def convert(column: str, type_: str, default: str) -> sql.Composable:
        for name in _COLUMN_NAMES[column]:
            if name in types and (type_ != "uuid" or types[name] == "uuid"):
                # A column of type text becomes a JSON string.
                is_text = type_ == "jsonb" and types[name] not in ("json", "jsonb")
                template = "to_jsonb(o.{})" if is_text else "o.{}::text::" + type_
                value = sql.SQL(template).format(sql.Identifier(name))
                return sql.SQL("coalesce({}, {}) as {}").format(
                    value, sql.SQL(default), sql.Identifier(column)
                )
        return sql.SQL("({})::{} as {}").format(
            sql.SQL(default), sql.SQL(type_), sql.Identifier(column)
        )

    has_uuids = types.get("id") == "uuid"
    return sql.SQL(", ").join(
        [
            sql.SQL("o.id, null::text as old_id")
            if has_uuids
            else sql.SQL("gen_random_uuid() as id, to_jsonb(o) ->> 'id' as old_id"),
            convert("job_type", "text", "'unknown'"),
            convert("payload", "jsonb", "'{}'"),
            convert("priority", "integer", "0"),
            convert("status", "text", "'pending'"),
            convert("attempt", "integer", "0"),
            convert("max_attempts", "integer", "3"),
            convert("scheduled_for", "timestamptz", "null"),
            convert("result", "jsonb", "null"),
            convert("error", "text", "null"),
            convert("user_id", "uuid", "null"),
            convert("created_at", "timestamptz", "now()"),
            convert("updated_at", "timestamptz", "now()"),
            convert("started_at", "timestamptz", "null"),
            convert("finished_at", "timestamptz", "null"),
        ]
    )


def _columns(connection: "Connection[Any]", table: str) -> dict[str, str]:
    """Return the columns of a table with their types; none if the table does not exist."""
    return dict(connection.execute(_COLUMNS, (table,)).fetchall())


def _expect_all_copied(connection: "Connection[Any]", table: str) -> None:
    # The new table was empty, so it must have as many rows as the old one.
    query = sql.SQL("select (select count(*) from {}) - (select count(*) from public.job_queue)")
    row = connection.execute(query.format(_identifier(table))).fetchone()
    if row != (0,):
        missing = f"{row[0]} rows of {table} were not copied" if row else None
        raise InstallationRefused("Jobs would be lost; nothing was changed", detail=missing)


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))
