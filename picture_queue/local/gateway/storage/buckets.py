"""Buckets: made, listed and looked at."""

import re
from typing import Any, Final

import asyncpg
from starlette.requests import Request

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.storage import bodies
from picture_queue.local.gateway.storage.errors import (
    StorageError,
    bucket_not_found,
    from_database,
    invalid,
    too_large,
)
from picture_queue.local.gateway.storage.names import check_bucket_name, check_mime_types
from picture_queue.local.gateway.storage.rows import Rows, timestamp

_UNITS: Final = {"gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1}
_SIZE_PATTERN: Final = r"^[0-9]+(?:\.[0-9]+)?(?:[gG][bB]|[mM][bB]|[kK][bB]|[bB])$"
_SORT_COLUMNS: Final = ("id", "name", "created_at", "updated_at")
_ORDERS: Final = ("asc", "desc")


class Buckets:
    """The bucket routes.

    Args:
        rows: Storage's tables.
        limit: Largest object of the server, in bytes.
    """

    def __init__(self, rows: Rows, limit: int) -> None:
        self._rows = rows
        self._limit = limit

    async def create(self, request: Request, caller: Caller) -> dict[str, Any]:
        """``POST /bucket``."""
        body = await bodies.read_object(request, "name")
        name = str(body["name"])
        check_bucket_name(name)
        bucket = str(body.get("id") or name)
        check_bucket_name(bucket)
        mime_types = body.get("allowed_mime_types")
        if mime_types is not None:
            mime_types = [str(entry) for entry in mime_types]
            check_mime_types(mime_types)
        size = self._size(body.get("file_size_limit"))
        public = bodies.boolean(body.get("public", False), "body/public")
        subject = caller.subject
        try:
            async with self._rows.acting(caller, "storage.bucket.create") as connection:
                await connection.execute(
                    "insert into storage.buckets"
                    " (id, name, owner, owner_id, public, file_size_limit, allowed_mime_types)"
                    " values ($1, $2, case when $3 ~ '^[0-9a-f-]{36}$' then $3::uuid end, $3,"
                    " $4, $5, $6)",
                    bucket,
                    name,
                    subject,
                    public,
                    size,
                    mime_types,
                )
        except asyncpg.PostgresError as error:
            raise from_database(error, exists="BucketAlreadyExists") from None
        return {"name": name}

    async def get(self, _: Request, bucket: str, caller: Caller) -> dict[str, Any]:
        """``GET /bucket/{bucket}``."""
        row = await self._rows.bucket(bucket, caller)
        if row is None:
            raise bucket_not_found()
        return _bucket_json(row)

    async def list_all(self, request: Request, caller: Caller) -> list[dict[str, Any]]:
        """``GET /bucket``."""
        query = request.query_params
        limit = bodies.integer(query.get("limit", "100000000"), "querystring/limit", 1)
        offset = bodies.integer(query.get("offset", "0"), "querystring/offset", 0)
        order = bodies.choice(query.get("sortOrder", "asc"), "querystring/sortOrder", _ORDERS)
        column = bodies.choice(
            query.get("sortColumn", "created_at"), "querystring/sortColumn", _SORT_COLUMNS
        )
        collation = ' collate "C"' if column in ("id", "name") else ""
        async with self._rows.acting(caller, "storage.bucket.list") as connection:
            rows = await connection.fetch(
                "select * from storage.buckets where position(lower($1) in lower(name)) > 0"  # noqa: S608
                f" order by {column}{collation} {order} limit $2 offset $3",
                query.get("search", ""),
                limit,
                offset,
            )
        return [{**_bucket_json(row), "type": row["type"]} for row in rows]

    def _size(self, value: object) -> int | None:
        """Bytes of a limit: a number, or a text with a unit."""
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(_SIZE_PATTERN, value):
            number, unit = re.split(r"(?=[a-zA-Z])", value, maxsplit=1)
            size = int(float(number) * _UNITS[unit.lower()])
        else:
            size = _whole(value)
        if size > self._limit:
            raise too_large()
        return size


def _whole(value: object) -> int:
    where = "body/file_size_limit"
    try:
        return bodies.integer(value, where, 0)
    except StorageError as error:
        complaints = [error.message]
        if "integer" in error.message:
            complaints.append(f'{where} must pass "finite" keyword validation')
        complaints.append(f'{where} must match pattern "{_SIZE_PATTERN}"')
        complaints.append(f"{where} must match a schema in anyOf")
        raise invalid(", ".join(complaints)) from None


def _bucket_json(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "owner": "" if row["owner"] is None else str(row["owner"]),
        "public": row["public"],
        "file_size_limit": row["file_size_limit"],
        "allowed_mime_types": row["allowed_mime_types"],
        "created_at": timestamp(row["created_at"]),
        "updated_at": timestamp(row["updated_at"]),
    }
