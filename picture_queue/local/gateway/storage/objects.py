"""The routes of objects."""

import uuid
from typing import Any, BinaryIO, Final

import asyncpg
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from picture_queue.local.gateway.credentials import Caller
from picture_queue.local.gateway.missing import not_implemented
from picture_queue.local.gateway.storage import bodies, upload
from picture_queue.local.gateway.storage.download import (
    header_value,
    http_date,
    last_modified,
    send_object,
)
from picture_queue.local.gateway.storage.errors import (
    StorageError,
    access_denied,
    bucket_not_found,
    from_database,
    internal,
    invalid,
    object_not_found,
    too_large,
)
from picture_queue.local.gateway.storage.files import FileStore, Incoming
from picture_queue.local.gateway.storage.listing import list_objects
from picture_queue.local.gateway.storage.names import check_mime_type, check_object_name
from picture_queue.local.gateway.storage.paging import list_page
from picture_queue.local.gateway.storage.signing import Signer
from picture_queue.local.gateway.storage.tables import SERVER, StorageTables, object_json, timestamp

_PLACEHOLDER: Final = ".emptyFolderPlaceholder"
_NOT_VISIBLE: Final = "Either the object does not exist or you do not have access to it"


class ObjectRoutes:
    """The routes of objects.

    Args:
        tables: The tables of Storage.
        files: The files of the objects.
        signer: The signer, which creates and checks signed URLs.
        limit: Maximum bytes of an object.
    """

    def __init__(self, tables: StorageTables, files: FileStore, signer: Signer, limit: int) -> None:
        self._tables = tables
        self._files = files
        self._signer = signer
        self._limit = limit

    async def store(
        self, request: Request, bucket_id: str, name: str, caller: Caller
    ) -> dict[str, Any]:
        """``POST`` and ``PUT /object/{bucket}/{name}``; PUT replaces an existing object."""
        upsert = request.method == "PUT" or _wants_upsert(request)
        return await self._store(request, bucket_id, name, caller, upsert=upsert)

    async def store_signed(self, request: Request, bucket: str, name: str) -> dict[str, Any]:
        """``PUT /object/upload/sign/{bucket}/{name}?token=…``: the token permits the upload."""
        if "token" not in request.query_params:
            raise invalid("querystring must have required property 'token'")
        owner, upsert = self._signer.check_upload(request.query_params["token"], bucket, name)
        # The policies were checked when the token was created, so the server makes the upload.
        uploader = Caller(SERVER.role, {**SERVER.claims, "sub": owner}, "")
        stored = await self._store(request, bucket, name, uploader, upsert=upsert)
        return {"Key": stored["Key"]}

    async def sign_upload(
        self, request: Request, bucket: str, name: str, caller: Caller
    ) -> dict[str, Any]:
        """``POST /object/upload/sign/{bucket}/{name}``."""
        upsert = _wants_upsert(request)
        metadata = {
            key: request.headers[header]
            for key, header in (("mimetype", "content-type"), ("contentLength", "content-length"))
            if header in request.headers
        }
        await self._check_policies(
            bucket,
            name,
            caller,
            metadata,
            upsert=upsert,
            operation="storage.object.sign_upload_url",
        )
        url, token = self._signer.sign_upload(bucket, name, caller.subject, upsert=upsert)
        return {"url": url, "token": token}

    async def _store(
        self, request: Request, bucket_id: str, name: str, caller: Caller, *, upsert: bool
    ) -> dict[str, Any]:
        bucket = await self._tables.find_bucket(bucket_id)
        if bucket is None:
            raise bucket_not_found()
        limit = self._size_limit(bucket, name)
        upload_info = upload.describe(request)
        try:
            if upload.is_form(request):
                await upload.receive_form(request, upload_info, self._files, limit)
                self._check_object(bucket, name, upload_info)
                await self._check_policies(
                    bucket_id, name, caller, upload_info.policy_metadata(), upsert=upsert
                )
                if upload_info.incoming is not None and upload_info.incoming.size > limit:
                    raise too_large()
            else:
                self._check_object(bucket, name, upload_info, limit)
                await self._check_policies(
                    bucket_id, name, caller, upload_info.policy_metadata(), upsert=upsert
                )
                await upload.receive_raw(request, upload_info, self._files, self._limit)
            if upload_info.incoming is None:
                raise internal()
            return await self._commit(bucket_id, name, caller, upload_info, upload_info.incoming)
        finally:
            if upload_info.incoming is not None:
                upload_info.incoming.discard()

    async def download(
        self, request: Request, bucket: str, name: str, caller: Caller | None
    ) -> Response:
        """``GET /object/{bucket}/{name}`` and ``/object/authenticated/…``."""
        check_object_name(name)
        reader = await self._reader(bucket, caller)
        return await self._send(request, bucket, name, reader)

    async def public(self, request: Request, bucket: str, name: str) -> Response:
        """``GET /object/public/{bucket}/{name}``."""
        check_object_name(name)
        reader = await self._reader(bucket, None)
        return await self._send(request, bucket, name, reader)

    async def signed(self, request: Request, bucket: str, name: str) -> Response:
        """``GET /object/sign/{bucket}/{name}?token=…``."""
        if "token" not in request.query_params:
            raise invalid("querystring must have required property 'token'")
        expires = self._signer.check_download(request.query_params["token"], bucket, name)
        return await self._send(request, bucket, name, SERVER, expires)

    async def info(
        self, request: Request, bucket: str, name: str, caller: Caller | None
    ) -> Response:
        """``GET /object/info/{bucket}/{name}``."""
        check_object_name(name)
        return await self._info(bucket, name, await self._reader(bucket, caller))

    async def public_info(self, request: Request, bucket: str, name: str) -> Response:
        """``GET /object/info/public/{bucket}/{name}``."""
        check_object_name(name)
        return await self._info(bucket, name, await self._reader(bucket, None))

    async def sign(
        self, request: Request, bucket: str, name: str, caller: Caller
    ) -> dict[str, Any] | Response:
        """``POST /object/sign/{bucket}/{name}``."""
        body = await bodies.read_object(request, "expiresIn")
        seconds = bodies.parse_integer(body["expiresIn"], "body/expiresIn", 1)
        if body.get("transform"):
            return not_implemented("Storage: image transformations")
        row = await self._tables.find_object(bucket, name, caller, "storage.object.sign")
        if row is None:
            raise object_not_found()
        return {"signedURL": self._signer.sign(bucket, name, seconds)}

    async def sign_many(
        self, request: Request, bucket: str, caller: Caller
    ) -> list[dict[str, Any]]:
        """``POST /object/sign/{bucket}``."""
        body = await bodies.read_object(request, "expiresIn", "paths")
        seconds = bodies.parse_integer(body["expiresIn"], "body/expiresIn", 1)
        names = bodies.parse_texts(body["paths"], "body/paths")
        visible = await self._tables.find_visible(bucket, names, caller)
        return [
            {
                "error": None if name in visible else _NOT_VISIBLE,
                "path": name,
                "signedURL": self._signer.sign(bucket, name, seconds) if name in visible else None,
            }
            for name in names
        ]

    async def list_folder(
        self, request: Request, bucket: str, caller: Caller
    ) -> list[dict[str, Any]]:
        """``POST /object/list/{bucket}``."""
        body = await bodies.read_object(request, "prefix")
        return await list_objects(self._tables, bucket, body, caller)

    async def list_page(
        self, request: Request, bucket: str, caller: Caller
    ) -> dict[str, Any] | Response:
        """``POST /object/list-v2/{bucket}``."""
        body = await bodies.read_object(request)
        return await list_page(self._tables, bucket, body, caller)

    async def remove(self, request: Request, bucket: str, caller: Caller) -> list[dict[str, Any]]:
        """``DELETE /object/{bucket}``: delete the listed objects that the caller may delete."""
        body = await bodies.read_object(request, "prefixes")
        names = bodies.parse_texts(body["prefixes"], "body/prefixes")
        removed = await self._tables.delete(bucket, names, caller, "storage.object.delete_many")
        for row in removed:
            self._files.remove(row["version"])
        return [object_json(row) for row in removed]

    async def delete(
        self, request: Request, bucket: str, name: str, caller: Caller
    ) -> dict[str, Any]:
        """``DELETE /object/{bucket}/{name}``."""
        await bodies.read_optional(request)
        if await self._tables.find_object(bucket, name, SERVER, "storage.object.delete") is None:
            raise object_not_found()
        removed = await self._tables.delete(bucket, [name], caller, "storage.object.delete")
        if not removed:
            raise access_denied("Access denied")
        self._files.remove(removed[0]["version"])
        return {"message": "Successfully deleted"}

    def _size_limit(self, bucket: asyncpg.Record, name: str) -> int:
        if name.rpartition("/")[2] == _PLACEHOLDER:
            return 0  # the dashboard creates this empty object to show an empty folder
        bucket_limit = bucket["file_size_limit"]
        return self._limit if bucket_limit is None else min(bucket_limit, self._limit)

    def _check_object(
        self,
        bucket: asyncpg.Record,
        name: str,
        upload_info: upload.Upload,
        limit: int | None = None,
    ) -> None:
        """Check the type, the declared size of a raw body and the name, in Supabase's order."""
        check_mime_type(upload_info.mime_type, bucket["allowed_mime_types"])
        if limit is not None and (upload_info.content_length or 0) > limit:
            raise too_large()
        check_object_name(name)

    async def _check_policies(
        self,
        bucket: str,
        name: str,
        caller: Caller,
        metadata: dict[str, Any],
        *,
        upsert: bool,
        operation: str = "",
    ) -> None:
        try:
            await self._tables.check_write(
                bucket, name, caller, upsert=upsert, metadata=metadata, operation=operation
            )
        except asyncpg.PostgresError as error:
            raise from_database(error, exists="KeyAlreadyExists") from None

    async def _commit(
        self, bucket: str, name: str, caller: Caller, upload_info: upload.Upload, incoming: Incoming
    ) -> dict[str, Any]:
        """Store the received bytes as the object: first the file, then its row."""
        version = uuid.uuid4()
        self._files.commit(incoming, version)
        try:
            row, old = await self._tables.write(
                bucket,
                name,
                caller,
                version=version,
                metadata=upload_info.metadata(incoming),
                user_metadata=upload_info.user_metadata,
            )
        except BaseException:
            self._files.remove(str(version))
            raise
        self._files.remove(old)
        return {"Key": f"{bucket}/{name}", "Id": str(row["id"])}

    async def _reader(self, bucket_id: str, caller: Caller | None) -> Caller:
        """Return the caller with whose privileges an object is read; the server for public buckets.

        Raises:
            StorageError: The bucket is missing, or it is private and there is no caller.
        """
        bucket = await self._tables.find_bucket(bucket_id)
        if bucket is None or (caller is None and not bucket["public"]):
            raise bucket_not_found()
        return SERVER if bucket["public"] or caller is None else caller

    async def _send(
        self, request: Request, bucket: str, name: str, reader: Caller, expires: str | None = None
    ) -> Response:
        row, file = await self._open(bucket, name, reader)
        try:
            return send_object(request, file, row["metadata"], expires=expires)
        except StorageError:
            file.close()
            raise

    async def _open(
        self, bucket: str, name: str, reader: Caller
    ) -> tuple[asyncpg.Record, BinaryIO]:
        # Try twice, since an upload may replace the row and the file between the two reads.
        for _ in range(2):
            row = await self._tables.find_object(
                bucket, name, reader, "storage.object.get_authenticated"
            )
            if row is None:
                raise object_not_found()
            file = self._files.read(row["version"])
            if file is not None:
                return row, file
        raise internal()

    async def _info(self, bucket: str, name: str, reader: Caller) -> Response:
        row = await self._tables.find_object(bucket, name, reader, "object.get_authenticated_info")
        if row is None:
            raise object_not_found()
        metadata = row["metadata"] or {}
        body = {
            "id": str(row["id"]),
            "name": row["name"],
            "version": row["version"],
            "bucket_id": row["bucket_id"],
            "size": metadata.get("size"),
            "content_type": metadata.get("mimetype"),
            "cache_control": metadata.get("cacheControl"),
            "etag": metadata.get("eTag"),
            "metadata": row["user_metadata"],
            "last_modified": timestamp(row["updated_at"]),
            "created_at": timestamp(row["created_at"]),
        }
        headers = {"etag": header_value(metadata.get("eTag"), "")}
        if metadata:
            headers["last-modified"] = http_date(last_modified(metadata))
            headers["cache-control"] = header_value(metadata["cacheControl"], "no-cache")
        response = JSONResponse(body, headers=headers)
        response.headers["content-type"] = "application/json; charset=utf-8"
        return response


def _wants_upsert(request: Request) -> bool:
    return request.headers.get("x-upsert") == "true"
