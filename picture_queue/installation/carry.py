"""Copies the jobs of what was set aside into the new tables.

Of an unreleased picture-queue every table comes along, column by column where both have it. Of
another system its jobs do: their ids, payloads, states, attempts and times. A job that is being run
keeps running: it gets a lease for ten minutes that its worker may end with `complete_job`.
"""

from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

from psycopg import sql

from picture_queue.errors import InstallationRefused
from picture_queue.installation.aside import Aside

if TYPE_CHECKING:
    from psycopg import Connection

# Written by the installation itself, counted anew, or a partition for each month.
_NOT_COPIED = {"edge", "migration", "depth", "depth_change", "archive"}
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
# Rows that were copied with their numbers.
_ADVANCE = """
select pg_catalog.setval(pg_catalog.pg_get_serial_sequence({name}, {column}),
  (select max({identifier}) from {table})) where exists (select from {table})
"""
_NUMBERED = """
select a.attname from pg_catalog.pg_attribute a
where a.attrelid = to_regclass(%s) and a.attidentity <> '' and not a.attisdropped
"""
STATES = ("pending", "processing", "completed", "failed", "cancelled")
# Ours, and what others call it; the first that is there counts.
_NAMES = {
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


def carry(connection: "Connection[Any]", aside: Aside) -> dict[str, int]:
    """Copies what was set aside, in the open transaction.

    Returns:
        How many rows of each table came along.

    Raises:
        InstallationRefused: A job is in no state that is known, or one would be lost.
        psycopg.Error: A row does not fit.
    """
    old = f"{aside.schema}.job_queue"
    if not _columns(connection, old):
        return {}
    carried = _tables(connection, aside) if aside.private else _jobs(connection, old)
    connection.execute("select picture_queue.repair()")
    _expect_all(connection, old)
    return carried


def states_of(connection: "Connection[Any]", table: str) -> dict[str, int]:
    """Counts the jobs of a table by their states."""
    query = sql.SQL("select status::text, count(*) from {} group by 1 order by 1")
    return dict(connection.execute(query.format(_identifier(table))).fetchall())


def _tables(connection: "Connection[Any]", aside: Aside) -> dict[str, int]:
    """Copies every table that the old schema has too, those first that others refer to."""
    tables = {name: (table, schema) for name, table, schema in connection.execute(_TABLES)}
    order: TopologicalSorter[str] = TopologicalSorter({name: set() for name in tables})
    for child, parent in connection.execute(_REFERENCES):
        if child in tables and parent in tables:
            order.add(child, parent)
    carried = {}
    for name in order.static_order():
        table, schema = tables[name]
        source = f"{aside.private if schema == 'picture_queue' else aside.schema}.{table}"
        if table in _NOT_COPIED or not (old := _columns(connection, source)):
            continue
        carried[table] = _copy(connection, f"{schema}.{table}", source, old)
    return carried


def _copy(connection: "Connection[Any]", target: str, source: str, old: Mapping[str, str]) -> int:
    """Copies rows as they are; what the installation wrote gives way, but for newer models."""
    values: dict[str, sql.Composable] = {
        name: sql.Identifier(name) for name in _columns(connection, target) if name in old
    }
    if target == "public.job_queue" and "rank" not in old:
        values["rank"] = sql.SQL("-priority")  # claims ordered by priority itself
    if target != "picture_queue.model":
        connection.execute(sql.SQL("delete from {} where true").format(_identifier(target)))
    query = sql.SQL(
        "insert into {} ({}) overriding system value select {} from {} on conflict do nothing"
    )
    copied = connection.execute(
        query.format(
            _identifier(target),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(values.values()),
            _identifier(source),
        )
    ).rowcount
    for (column,) in connection.execute(_NUMBERED, (target,)).fetchall():
        advance = sql.SQL(_ADVANCE).format(
            name=sql.Literal(target),
            column=sql.Literal(column),
            identifier=sql.Identifier(column),
            table=_identifier(target),
        )
        connection.execute(advance)
    return copied


def _jobs(connection: "Connection[Any]", table: str) -> dict[str, int]:
    """Copies the jobs of another system."""
    types = _columns(connection, table)
    if "status" not in types or not {"job_type", "type"} & types.keys():
        raise InstallationRefused(
            "public.job_queue has no columns status and job_type; it is no job queue",
            hint="Rename that table yourself, then run: picture-queue migrate",
        )
    unknown = sorted(str(state) for state in states_of(connection, table).keys() - set(STATES))
    if unknown:
        raise InstallationRefused(
            f"Jobs are in states that are not known: {', '.join(unknown)}",
            hint=f"Set them to one of {', '.join(STATES)} first",
        )
    query = sql.SQL(_INSERT).format(columns=_expressions(types), table=_identifier(table))
    return {"job_queue": connection.execute(query).rowcount}


def _expressions(types: dict[str, str]) -> sql.Composable:
    """Returns what the old row gives for each of our columns, converted."""

    def of(column: str, kind: str, otherwise: str) -> sql.Composable:
        for name in _NAMES[column]:
            if name in types and (kind != "uuid" or types[name] == "uuid"):
                # A text that holds no JSON becomes a JSON text.
                is_text = kind == "jsonb" and types[name] not in ("json", "jsonb")
                convert = "to_jsonb(o.{})" if is_text else "o.{}::text::" + kind
                found = sql.SQL(convert).format(sql.Identifier(name))
                return sql.SQL("coalesce({}, {}) as {}").format(
                    found, sql.SQL(otherwise), sql.Identifier(column)
                )
        return sql.SQL("({})::{} as {}").format(
            sql.SQL(otherwise), sql.SQL(kind), sql.Identifier(column)
        )

    by_uuid = types.get("id") == "uuid"
    return sql.SQL(", ").join(
        [
            sql.SQL("o.id, null::text as old_id")
            if by_uuid
            else sql.SQL("gen_random_uuid() as id, to_jsonb(o) ->> 'id' as old_id"),
            of("job_type", "text", "'unknown'"),
            of("payload", "jsonb", "'{}'"),
            of("priority", "integer", "0"),
            of("status", "text", "'pending'"),
            of("attempt", "integer", "0"),
            of("max_attempts", "integer", "3"),
            of("scheduled_for", "timestamptz", "null"),
            of("result", "jsonb", "null"),
            of("error", "text", "null"),
            of("user_id", "uuid", "null"),
            of("created_at", "timestamptz", "now()"),
            of("updated_at", "timestamptz", "now()"),
            of("started_at", "timestamptz", "null"),
            of("finished_at", "timestamptz", "null"),
        ]
    )


def _columns(connection: "Connection[Any]", table: str) -> dict[str, str]:
    """Returns the columns of a table with their types; none where there is no such table."""
    return dict(connection.execute(_COLUMNS, (table,)).fetchall())


def _expect_all(connection: "Connection[Any]", table: str) -> None:
    # The new table was empty, and ids are its primary key.
    query = sql.SQL("select (select count(*) from {}) - (select count(*) from public.job_queue)")
    row = connection.execute(query.format(_identifier(table))).fetchone()
    if row != (0,):
        raise InstallationRefused("Jobs would be lost; nothing was changed", detail=str(row))


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))
