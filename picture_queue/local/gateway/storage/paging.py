"""``POST /object/list-v2/{bucket}``: the objects of a bucket in pages, flat or with folders."""

import base64
import binascii
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import asyncpg
from starlette.responses import Response

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.missing import not_implemented
from picture_queue.local.gateway.storage import bodies
from picture_queue.local.gateway.storage.errors import StorageError, invalid
from picture_queue.local.gateway.storage.tables import StorageTables, timestamp

_MAX_ENTRIES: Final = 1000
_COLUMNS: Final = ("name", "created_at", "updated_at")
_ORDERS: Final = ("asc", "desc")

# $1 bucket, $2 prefix, $3 whether folders are entries, $4 last name of the previous page or null,
# $5 time of the object with this name, $6 limit. A folder is the part of a name up to the first
# slash after the prefix.
_ENTRIES: Final = """
with found as (
  select objects.*, position('/' in substr(objects.name, length($2) + 1)) as slash
  from storage.objects
  where objects.bucket_id = $1 and starts_with(objects.name, $2)
),
entries as (
  select name, id, metadata, updated_at, created_at, last_accessed_at
  from found where not $3 or slash = 0
  union all
  select distinct left(name, length($2) + slash - 1), null::uuid, null::jsonb, null::timestamptz,
    null::timestamptz, null::timestamptz
  from found where $3 and slash > 0
),
sorted as (
  select *, name collate "C" as by_name, date_trunc('milliseconds', {time}) as by_time from entries
)
select * from sorted
where $4::text is null or ({key}) {beyond} ({last})
order by {order}, id nulls last limit $6
"""


@dataclass(frozen=True)
class _Page:
    """The start and the order of a page.

    Args:
        last: The last name of the previous page; None for the first page.
        order: ``asc`` or ``desc``; None: the request did not choose.
        column: The column by which entries are sorted; None: the request did not choose.
        last_time: The time of the object `last`, if entries are sorted by time.
    """

    last: str | None = None
    order: str | None = None
    column: str | None = None
    last_time: str | None = None

    @classmethod
    def parse(cls, body: dict[str, Any]) -> "_Page":
        """Parse the body of a request.

        Raises:
            StorageError: The cursor or the order is not valid.
        """
        if body.get("cursor"):
            return cls._parse_cursor(str(body["cursor"]))
        sort = body.get("sortBy")
        if not isinstance(sort, dict):
            return cls()
        if "column" not in sort:
            raise invalid("body/sortBy must have required property 'column'")
        column = bodies.parse_choice(sort["column"], "body/sortBy/column", _COLUMNS)
        order = bodies.parse_choice(sort.get("order", "asc"), "body/sortBy/order", _ORDERS)
        return cls(order=order, column=column)

    @classmethod
    def _parse_cursor(cls, cursor: str) -> "_Page":
        try:
            lines = base64.b64decode(cursor, validate=True).decode().split("\n")
            values = {line[:1]: line[2:] for line in lines if line[1:2] == ":"}
            page = cls(values["l"], values.get("o", "asc"), values.get("c"), values.get("a"))
            if page.order not in _ORDERS or page.column not in (None, *_COLUMNS):
                raise ValueError(cursor)
            if page.by_time:
                datetime.fromisoformat(page.last_time or "")
        except (ValueError, KeyError, binascii.Error):
            message = "Invalid Parameter continuation token"
            raise StorageError(400, "InvalidParameter", message, "InvalidParameter") from None
        return page

    @property
    def by_time(self) -> bool:
        return self.column not in (None, "name")

    def after(self, row: asyncpg.Record) -> "_Page":
        """Return the page that begins after a row."""
        time = timestamp(row["by_time"]) if self.by_time else None
        return replace(self, last=row["name"], last_time=time)

    def cursor(self) -> str:
        """Return the cursor for the page."""
        parts = (("l", self.last), ("o", self.order), ("c", self.column), ("a", self.last_time))
        text = "\n".join(f"{name}:{value}" for name, value in parts if value is not None)
        return base64.b64encode(text.encode()).decode()

    def query(self) -> str:
        """Return the SQL statement for the page."""
        direction = self.order or "asc"
        columns = ("by_time", "by_name") if self.by_time else ("by_name",)
        return _ENTRIES.format(
            time=self.column if self.by_time else "$5::timestamptz",
            key=", ".join(columns),
            last=", ".join(("$5::timestamptz", "$4") if self.by_time else ("$4",)),
            beyond=">" if direction == "asc" else "<",
            order=", ".join(f"{column} {direction}" for column in columns),
        )


async def list_page(
    tables: StorageTables, bucket: str, body: dict[str, Any], caller: Caller
) -> dict[str, Any] | Response:
    """Return a page of the objects of a bucket.

    Args:
        tables: The tables of Storage.
        bucket: The bucket; a missing bucket counts as empty.
        body: The body of the request.
        caller: The caller, for the policies.

    Raises:
        StorageError: The body does not match its schema.
    """
    page = _Page.parse(body)
    limit = min(
        bodies.parse_integer(body.get("limit", _MAX_ENTRIES), "body/limit", 1), _MAX_ENTRIES
    )
    folders = bodies.parse_boolean(body.get("with_delimiter", False), "body/with_delimiter")
    if folders and page.by_time:
        return not_implemented("Storage: list v2 of folders by time")
    prefix = str(body.get("prefix") or "")
    last_time = None if page.last_time is None else datetime.fromisoformat(page.last_time)
    async with tables.transaction_as(caller, "storage.object.list_v2") as connection:
        rows = await connection.fetch(
            page.query(), bucket, prefix, folders, page.last, last_time, limit + 2
        )
    # The next page begins after a name. So if an object and a folder have the same name, both must
    # be on this page.
    same_name = len(rows) > limit and rows[limit]["name"] == rows[limit - 1]["name"]
    entries = rows[: limit + same_name]
    answer: dict[str, Any] = {"hasNext": len(rows) > len(entries)}
    if answer["hasNext"]:
        next_page = page.after(entries[-1])
        answer |= {"nextCursor": next_page.cursor(), "nextCursorKey": next_page.last}
    return answer | {
        "folders": [_entry_json(row, folders) for row in entries if row["id"] is None],
        "objects": [_entry_json(row, folders) for row in entries if row["id"] is not None],
    }


def _entry_json(row: asyncpg.Record, folders: bool) -> dict[str, Any]:
    key = {"key": row["name"].rpartition("/")[2]} if folders else {}
    return {
        **key,
        "name": row["name"] if row["id"] is not None else row["name"] + "/",
        "id": None if row["id"] is None else str(row["id"]),
        "metadata": row["metadata"],
        "updated_at": timestamp(row["updated_at"]),
        "created_at": timestamp(row["created_at"]),
        "last_accessed_at": timestamp(row["last_accessed_at"]),
    }
