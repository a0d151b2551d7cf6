"""Reads and writes of the tables ``storage.objects`` and ``storage.buckets``.

For an upload, copy or move, the server first makes the change with the privileges of the caller and
rolls it back, to check the policies. When the bytes are stored, the server makes the change with
its own privileges. So triggers on ``storage.objects`` run twice, as on Supabase. A deletion is
made once, with the privileges of the caller.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import asyncpg

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.database import Connection, Database, act_as, fetch_one

SERVER: Final = Caller("service_role", {"role": "service_role"}, "")

_UPSERT: Final = (
    "insert into storage.objects"
    " (bucket_id, name, owner, owner_id, version, metadata, user_metadata)"
    " values ($1, $2, $3, $4, $5, $6, $7)"
    " on conflict (bucket_id, name) do update set"
    " owner = coalesce(excluded.owner, objects.owner),"
    " owner_id = coalesce(excluded.owner_id, objects.owner_id),"
    " version = excluded.version, metadata = excluded.metadata,"
    " user_metadata = excluded.user_metadata"
)

_MOVE: Final = (
    "update storage.objects set bucket_id = $3, name = $4, version = $5,"
    " metadata = coalesce($6, metadata) where bucket_id = $1 and name = $2 returning id"
)


class ObjectPath(NamedTuple):
    """The bucket and the name of an object."""

    bucket: str
    name: str


class StorageTables:
    """The tables of Storage.

    Args:
        database: The database of the tables.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction_as(self, caller: Caller, operation: str) -> AsyncIterator[Connection]:
        """Yield a transaction with the privileges of a caller; policies can read `operation`."""
        async with self._database.transaction() as connection:
            settings = {
                "storage.operation": operation,
                "storage.allow_delete_query": "true",
                "search_path": "storage, public, extensions",
                "statement_timeout": "30s",
            }
            await act_as(connection, caller, settings)
            yield connection

    async def find_bucket(self, bucket: str, caller: Caller = SERVER) -> asyncpg.Record | None:
        """Return a bucket; None if it does not exist or is not visible to the caller."""
        async with self.transaction_as(caller, "storage.bucket.get") as connection:
            return await connection.fetchrow("select * from storage.buckets where id = $1", bucket)

    async def find_object(
        self, bucket: str, name: str, caller: Caller, operation: str
    ) -> asyncpg.Record | None:
        """Return an object; None if it does not exist or is not visible to the caller."""
        async with self.transaction_as(caller, operation) as connection:
            return await connection.fetchrow(
                "select * from storage.objects where bucket_id = $1 and name = $2", bucket, name
            )

    async def find_visible(self, bucket: str, names: list[str], caller: Caller) -> set[str]:
        """Return the names whose objects exist and are visible to the caller."""
        async with self.transaction_as(caller, "storage.object.sign_many") as connection:
            rows = await connection.fetch(
                "select name from storage.objects where bucket_id = $1 and name = any($2)",
                bucket,
                names,
            )
        return {row["name"] for row in rows}

    async def check_write(
        self,
        bucket: str,
        name: str,
        caller: Caller,
        *,
        upsert: bool,
        metadata: dict[str, Any],
        operation: str = "",
    ) -> None:
        """Write a row with the privileges of the caller, and roll it back.

        Args:
            bucket: The object's bucket.
            name: The object's name.
            caller: The caller, for the policies.
            upsert: Whether an existing row may be replaced.
            metadata: The part of the object's metadata that is known before the bytes arrive.
            operation: The operation that policies can read; empty: an upload.

        Raises:
            asyncpg.PostgresError: A policy or a constraint refuses the row.
        """
        upload = "storage.object.upload_update" if upsert else "storage.object.upload"
        statement = _UPSERT + " returning *" if upsert else _UPSERT.partition(" on conflict")[0]
        async with self._rollback_transaction(caller, operation or upload) as connection:
            await connection.execute(statement, bucket, name, *_owner(caller), "1", metadata, None)

    async def write(
        self,
        bucket: str,
        name: str,
        caller: Caller,
        *,
        version: uuid.UUID,
        metadata: dict[str, Any],
        user_metadata: dict[str, Any],
    ) -> tuple[asyncpg.Record, str | None]:
        """Insert or replace a row with the privileges of the server.

        Args:
            bucket: The object's bucket.
            name: The object's name.
            caller: The caller, who becomes the owner of the object.
            version: The version, which names the file of the bytes.
            metadata: The object's metadata.
            user_metadata: The metadata of the client.

        Returns:
            The object, and its previous version.

        Raises:
            asyncpg.PostgresError: A constraint or a trigger refuses the row.
        """
        async with self.transaction_as(SERVER, "storage.object.upload") as connection:
            old = await connection.fetchval(
                "select version from storage.objects where bucket_id = $1 and name = $2 for update",
                bucket,
                name,
            )
            row = await fetch_one(
                connection,
                _UPSERT + " returning *",
                bucket,
                name,
                *_owner(caller),
                str(version),
                metadata,
                user_metadata,
            )
        return row, old

    async def check_move(self, source: ObjectPath, target: ObjectPath, caller: Caller) -> bool:
        """Move a row with the privileges of the caller, and roll it back.

        Returns:
            Whether the caller may change the row.

        Raises:
            asyncpg.PostgresError: A policy or a constraint refuses the change.
        """
        async with self._rollback_transaction(caller, "storage.object.move") as connection:
            moved = await connection.fetchval(_MOVE, *source, *target, "1", None)
        return moved is not None

    async def move(
        self,
        source: ObjectPath,
        target: ObjectPath,
        *,
        version: uuid.UUID,
        metadata: dict[str, Any],
    ) -> str | None:
        """Move a row with the privileges of the server; return its previous version.

        Raises:
            asyncpg.PostgresError: A constraint or a trigger refuses the change.
        """
        async with self.transaction_as(SERVER, "storage.object.move") as connection:
            old: str | None = await connection.fetchval(
                "select version from storage.objects where bucket_id = $1 and name = $2 for update",
                *source,
            )
            await connection.execute(_MOVE, *source, *target, str(version), metadata)
        return old

    async def delete(
        self, bucket: str, names: list[str], caller: Caller, operation: str
    ) -> list[asyncpg.Record]:
        """Delete the objects that the caller may delete and return them."""
        async with self.transaction_as(caller, operation) as connection:
            return await connection.fetch(
                "delete from storage.objects where bucket_id = $1 and name = any($2) returning *",
                bucket,
                names,
            )

    @asynccontextmanager
    async def _rollback_transaction(
        self, caller: Caller, operation: str
    ) -> AsyncIterator[Connection]:
        async with self.transaction_as(caller, operation) as connection:
            savepoint = connection.transaction()
            await savepoint.start()
            try:
                yield connection
            finally:
                await savepoint.rollback()


def _owner(caller: Caller) -> tuple[uuid.UUID | None, str | None]:
    subject = caller.subject
    try:
        return uuid.UUID(subject or ""), subject
    except ValueError:
        return None, subject


def object_json(row: asyncpg.Record) -> dict[str, Any]:
    """Return the JSON of an object for deletions and copies."""
    return {
        "name": row["name"],
        "bucket_id": row["bucket_id"],
        "owner": "" if row["owner"] is None else str(row["owner"]),
        "owner_id": row["owner_id"] or "",
        "version": row["version"] or "",
        "id": str(row["id"]),
        "updated_at": timestamp(row["updated_at"]),
        "created_at": timestamp(row["created_at"]),
        "last_accessed_at": timestamp(row["last_accessed_at"]),
        "metadata": row["metadata"],
        "user_metadata": row["user_metadata"],
    }


def timestamp(moment: datetime | None) -> str | None:
    """Return a time in JavaScript's format: UTC with milliseconds."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
