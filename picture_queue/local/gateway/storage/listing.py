"""``POST /object/list/{bucket}``: the entries of a folder that policies let the caller see."""

from typing import Any, Final

import asyncpg

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.storage import bodies
from picture_queue.local.gateway.storage.errors import invalid
from picture_queue.local.gateway.storage.tables import StorageTables, timestamp

_COLUMNS: Final = ("name", "updated_at", "created_at", "last_accessed_at")
_ORDERS: Final = ("asc", "desc")

# $1 bucket, $2 folder with a slash at the end, $3 search, which is a prefix of the names in the
# folder, $4 limit, $5 offset, $6 subfolder in the search. `rest` is the name after the folder. If
# `rest` has a slash after the subfolder, the part before the slash is a folder in the result.
_ENTRIES: Final = """
with found as (
  select objects.*, substr(objects.name, length($2) + 1) as rest
  from storage.objects
  where objects.bucket_id = $1 and starts_with(lower(objects.name), lower($2 || $3))
),
entries as (
  select distinct on (lower(folder))
    folder as name, null::uuid as id, null::timestamptz as updated_at,
    null::timestamptz as created_at, null::timestamptz as last_accessed_at, null::jsonb as metadata
  from (
    select $6 || split_part(substr(rest, length($6) + 1), '/', 1) as folder
    from found where position('/' in substr(rest, length($6) + 1)) > 0
  ) as folders
  union all
  select rest, id, updated_at, created_at, last_accessed_at, metadata
  from found where position('/' in substr(rest, length($6) + 1)) = 0
)
select * from entries order by {order} limit $4 offset $5
"""


async def list_objects(
    tables: StorageTables, bucket: str, body: dict[str, Any], caller: Caller
) -> list[dict[str, Any]]:
    """Return the entries of one folder.

    Args:
        tables: The tables of Storage.
        bucket: The bucket; a missing bucket counts as empty.
        body: The body of the request, with ``prefix``.
        caller: The caller, for the policies.

    Raises:
        StorageError: The body does not match its schema.
    """
    prefix = str(body["prefix"] or "")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    search = str(body.get("search") or "")
    limit = bodies.parse_integer(body.get("limit", 100), "body/limit", 1)
    offset = bodies.parse_integer(body.get("offset", 0), "body/offset", 0)
    order = _parse_order(body.get("sortBy"))
    # A search with a slash searches in a subfolder, and names in the answer begin with it.
    subfolder = search[: search.rfind("/") + 1]
    async with tables.transaction_as(caller, "storage.object.list") as connection:
        entries = await connection.fetch(
            _ENTRIES.format(order=order), bucket, prefix, search, limit, offset, subfolder
        )
    return [_entry_json(row) for row in entries]


def _parse_order(sort: object) -> str:
    """Return the SQL of the order: by name ignoring case, or folders first and then by time."""
    sort = sort if isinstance(sort, dict) else {"column": "name"}
    if "column" not in sort:
        raise invalid("body/sortBy must have required property 'column'")
    column = bodies.parse_choice(sort["column"], "body/sortBy/column", _COLUMNS)
    direction = bodies.parse_choice(sort.get("order", "asc"), "body/sortBy/order", _ORDERS)
    by_name = f'lower(name) collate "C" {direction}'
    if column == "name":
        return by_name
    return f"id is not null, {column} {direction}, {by_name}"


def _entry_json(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "name": row["name"],
        "id": None if row["id"] is None else str(row["id"]),
        "updated_at": timestamp(row["updated_at"]),
        "created_at": timestamp(row["created_at"]),
        "last_accessed_at": timestamp(row["last_accessed_at"]),
        "metadata": row["metadata"],
    }
