"""The routes that move and copy objects, without copying their bytes."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
from starlette.requests import Request

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.storage import bodies
from picture_queue.local.gateway.storage.errors import (
    from_database,
    internal,
    invalid,
    object_not_found,
)
from picture_queue.local.gateway.storage.files import FileStore
from picture_queue.local.gateway.storage.names import check_object_name
from picture_queue.local.gateway.storage.tables import (
    ObjectPath,
    StorageTables,
    object_json,
    timestamp,
)
from picture_queue.local.gateway.storage.upload import decode_metadata

_CHANGEABLE_METADATA: Final = ("cacheControl", "mimetype")


class MoveRoutes:
    """The routes ``/object/move`` and ``/object/copy``.

    Args:
        tables: The tables of Storage.
        files: The files of the objects.
    """

    def __init__(self, tables: StorageTables, files: FileStore) -> None:
        self._tables = tables
        self._files = files

    async def move(self, request: Request, caller: Caller) -> dict[str, Any]:
        """``POST /object/move``."""
        _, source, target = await _read_paths(request)
        response = {"message": "Successfully moved"}
        row = await self._tables.find_object(
            source.bucket, source.name, caller, "storage.object.move"
        )
        if row is None:
            raise object_not_found()
        if source == target:
            return response
        try:
            if not await self._tables.check_move(source, target, caller):
                raise object_not_found()
            async with self._copy_version(row["version"]) as version:
                metadata = _set_last_modified(row["metadata"])
                old = await self._tables.move(source, target, version=version, metadata=metadata)
        except asyncpg.PostgresError as error:
            raise from_database(error, exists="ResourceAlreadyExists") from None
        self._files.remove(old)
        return response

    async def copy(self, request: Request, caller: Caller) -> dict[str, Any]:
        """``POST /object/copy``."""
        body, source, target = await _read_paths(request)
        row = await self._tables.find_object(
            source.bucket, source.name, caller, "storage.object.copy"
        )
        if row is None:
            raise object_not_found()
        metadata, user_metadata = _set_last_modified(row["metadata"]), row["user_metadata"]
        if not bodies.parse_boolean(body.get("copyMetadata", True), "body/copyMetadata"):
            changes = body.get("metadata") or {}
            if not isinstance(changes, dict):
                raise invalid("body/metadata must be object")
            metadata |= {
                name: str(changes[name]) for name in _CHANGEABLE_METADATA if name in changes
            }
            user_metadata = decode_metadata(request.headers.get("x-metadata"))
        upsert = request.headers.get("x-upsert") == "true"
        try:
            await self._tables.check_write(
                *target, caller, upsert=upsert, metadata=metadata, operation="storage.object.copy"
            )
        except asyncpg.PostgresError as error:
            raise from_database(error, exists="KeyAlreadyExists") from None
        async with self._copy_version(row["version"]) as version:
            copied, old = await self._tables.write(
                *target, caller, version=version, metadata=metadata, user_metadata=user_metadata
            )
        self._files.remove(old)
        return {
            "Key": f"{target.bucket}/{target.name}",
            "Id": str(copied["id"]),
            **object_json(copied),
        }

    @asynccontextmanager
    async def _copy_version(self, version: str) -> AsyncIterator[uuid.UUID]:
        """Yield the id of a copy of a version; delete the copy if the block fails."""
        copy = uuid.uuid4()
        if not self._files.copy(version, copy):
            raise internal()
        try:
            yield copy
        except BaseException:
            self._files.remove(str(copy))
            raise


async def _read_paths(request: Request) -> tuple[dict[str, Any], ObjectPath, ObjectPath]:
    """Return the request's body, the source and the target.

    Raises:
        StorageError: The body does not match its schema, or the new name is not valid.
    """
    body = await bodies.read_object(request, "bucketId", "sourceKey", "destinationKey")
    source = ObjectPath(str(body["bucketId"]), str(body["sourceKey"]))
    target = ObjectPath(
        str(body.get("destinationBucket") or source.bucket), str(body["destinationKey"])
    )
    check_object_name(target.name)
    return body, source, target


def _set_last_modified(metadata: dict[str, Any]) -> dict[str, Any]:
    return {**metadata, "lastModified": timestamp(datetime.now(UTC))}
