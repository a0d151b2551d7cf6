"""The routes of buckets."""

import re
from typing import Any, Final

import asyncpg
from starlette.requests import Request

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.storage import bodies
from picture_queue.local.gateway.storage.errors import (
    StorageError,
    bucket_not_empty,
    bucket_not_found,
    from_database,
    invalid,
    invalid_role,
    too_large,
)
from picture_queue.local.gateway.storage.files import FileStore
from picture_queue.local.gateway.storage.names import check_bucket_name, check_mime_types
from picture_queue.local.gateway.storage.tables import StorageTables, timestamp

_UNITS: Final = {"gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1}
_SIZE_PATTERN: Final = r"^[0-9]+(?:\.[0-9]+)?(?:[gG][bB]|[mM][bB]|[kK][bB]|[bB])$"
_SORT_COLUMNS: Final = ("id", "name", "created_at", "updated_at")
_CHANGEABLE_FIELDS: Final = ("public", "file_size_limit", "allowed_mime_types")
_ORDERS: Final = ("asc", "desc")


class BucketRoutes:
    """The routes of buckets.

    Args:
        tables: The tables of Storage.
        files: The files of the objects.
        limit: Maximum bytes of an object.
    """

    def __init__(self, tables: StorageTables, files: FileStore, limit: int) -> None:
        self._tables = tables
        self._files = files
        self._limit = limit

    async def create(self, request: Request, caller: Caller) -> dict[str, Any]:
        """``POST /bucket``."""
        body = await bodies.read_object(request, "name")
        name = str(body["name"])
        check_bucket_name(name)
        bucket = str(body.get("id") or name)
        check_bucket_name(bucket)
        mime_types = _parse_mime_types(body.get("allowed_mime_types"))
        size_limit = self._parse_size_limit(body.get("file_size_limit"))
        public = bodies.parse_boolean(body.get("public", False), "body/public")
        subject = caller.subject
        try:
            async with self._tables.transaction_as(caller, "storage.bucket.create") as connection:
                await connection.execute(
                    "insert into storage.buckets"
                    " (id, name, owner, owner_id, public, file_size_limit, allowed_mime_types)"
                    " values ($1, $2, case when $3 ~ '^[0-9a-f-]{36}$' then $3::uuid end, $3,"
                    " $4, $5, $6)",
                    bucket,
                    name,
                    subject,
                    public,
                    size_limit,
                    mime_types,
                )
        except asyncpg.PostgresError as error:
            raise from_database(error, exists="BucketAlreadyExists") from None
        return {"name": name}

    async def get(self, _: Request, bucket: str, caller: Caller) -> dict[str, Any]:
        """``GET /bucket/{bucket}``."""
        row = await self._tables.find_bucket(bucket, caller)
        if row is None:
            raise bucket_not_found()
        return _bucket_json(row)

    async def list_all(self, request: Request, caller: Caller) -> list[dict[str, Any]]:
        """``GET /bucket``."""
        query = request.query_params
        limit = bodies.parse_integer(query.get("limit", "100000000"), "querystring/limit", 1)
        offset = bodies.parse_integer(query.get("offset", "0"), "querystring/offset", 0)
        order = bodies.parse_choice(query.get("sortOrder", "asc"), "querystring/sortOrder", _ORDERS)
        column = bodies.parse_choice(
            query.get("sortColumn", "created_at"), "querystring/sortColumn", _SORT_COLUMNS
        )
        collation = ' collate "C"' if column in ("id", "name") else ""
        async with self._tables.transaction_as(caller, "storage.bucket.list") as connection:
            rows = await connection.fetch(
                "select * from storage.buckets where position(lower($1) in lower(name)) > 0"  # noqa: S608 # nosec
                f" order by {column}{collation} {order} limit $2 offset $3",
                query.get("search", ""),
                limit,
                offset,
            )
        return [{**_bucket_json(row), "type": row["type"]} for row in rows]

    async def update(self, request: Request, bucket: str, caller: Caller) -> dict[str, Any]:
        """``PUT /bucket/{bucket}``: set the given fields; null clears a field."""
        body = await bodies.read_object(request)
        changes: dict[str, Any] = {}
        if "public" in body:
            changes["public"] = bodies.parse_boolean(body["public"], "body/public")
        if "file_size_limit" in body:
            changes["file_size_limit"] = self._parse_size_limit(body["file_size_limit"])
        if "allowed_mime_types" in body:
            changes["allowed_mime_types"] = _parse_mime_types(body["allowed_mime_types"])
        if not changes:
            messages = [f"body must have required property '{name}'" for name in _CHANGEABLE_FIELDS]
            raise invalid(", ".join([*messages, "body must match a schema in anyOf"]))
        columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(changes, 2))
        async with self._tables.transaction_as(caller, "storage.bucket.update") as connection:
            changed = await connection.fetchval(
                f"update storage.buckets set {columns} where id = $1 returning id",  # noqa: S608 # nosec
                bucket,
                *changes.values(),
            )
        if changed is None:
            raise bucket_not_found()
        return {"message": "Successfully updated"}

    async def delete(self, request: Request, bucket: str, caller: Caller) -> dict[str, Any]:
        """``DELETE /bucket/{bucket}``: delete an empty bucket."""
        await bodies.read_optional(request)
        if await self._tables.find_bucket(bucket, caller) is None:
            raise bucket_not_found()
        try:
            async with self._tables.transaction_as(caller, "storage.bucket.delete") as connection:
                deleted = await connection.fetchval(
                    "delete from storage.buckets where id = $1 returning id", bucket
                )
        except asyncpg.ForeignKeyViolationError:
            raise bucket_not_empty() from None
        if deleted is None:
            raise bucket_not_found()
        return {"message": "Successfully deleted"}

    async def empty(self, request: Request, bucket: str, caller: Caller) -> dict[str, Any]:
        """``POST /bucket/{bucket}/empty``: delete all objects before the answer."""
        await bodies.read_optional(request)
        if caller.role != "service_role":
            raise invalid_role()
        if await self._tables.find_bucket(bucket, caller) is None:
            raise bucket_not_found()
        async with self._tables.transaction_as(caller, "storage.bucket.empty") as connection:
            removed = await connection.fetch(
                "delete from storage.objects where bucket_id = $1 returning version", bucket
            )
        for row in removed:
            self._files.remove(row["version"])
        return {"message": "Empty bucket has been queued. Completion may take up to an hour."}

    def _parse_size_limit(self, value: object) -> int | None:
        """Return a size limit in bytes from a number of bytes, or from a text with a unit."""
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(_SIZE_PATTERN, value):
            number, unit = re.split(r"(?=[a-zA-Z])", value, maxsplit=1)
            # `min` is for a very large number, which is infinite as a float: int() would fail.
            size = int(min(float(number) * _UNITS[unit.lower()], self._limit + 1))
        else:
            size = _parse_bytes(value)
        if size > self._limit:
            raise too_large()
        return size


def _parse_mime_types(value: object) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise invalid("body/allowed_mime_types must be array")
    mime_types = [str(entry) for entry in value]
    check_mime_types(mime_types)
    return mime_types


def _parse_bytes(value: object) -> int:
    where = "body/file_size_limit"
    try:
        return bodies.parse_integer(value, where, 0)
    except StorageError as error:
        messages = [error.message]
        if "integer" in error.message:
            messages.append(f'{where} must pass "finite" keyword validation')
        messages.append(f'{where} must match pattern "{_SIZE_PATTERN}"')
        messages.append(f"{where} must match a schema in anyOf")
        raise invalid(", ".join(messages)) from None


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
