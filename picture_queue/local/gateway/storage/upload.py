"""Upload of an object, as a multipart form or as a raw body."""

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from picture_queue.local import json_body
from picture_queue.local.gateway.storage.errors import StorageError, invalid_request, too_large
from picture_queue.local.gateway.storage.files import FileStore, Incoming
from picture_queue.local.gateway.storage.tables import timestamp

_NO_CACHE: Final = "no-cache"
_FIELD_LIMIT: Final = 1024 * 1024  # bytes of all fields of a form; further bytes are ignored
_MAX_FIELDS: Final = 100  # further fields are ignored
_ROBOTS_RULES: Final = frozenset(
    {"all", "noindex", "nofollow", "none", "nosnippet", "indexifembedded", "notranslate",
     "noimageindex", "noarchive"}
)  # fmt: skip


@dataclass
class Upload:
    """An object that a client sends.

    Args:
        mime_type: Content type.
        cache_control: Value of ``Cache-Control`` for downloads.
        user_metadata: The metadata of the client.
        content_length: Bytes of the request's body; None if its length is unknown.
        robots: Value of ``X-Robots-Tag``; None if it was not sent.
        incoming: The received bytes; None before they are received. The caller of `receive_raw` or
            `receive_form` must call `incoming.discard()`, which does nothing after a commit.
    """

    mime_type: str
    cache_control: str = _NO_CACHE
    user_metadata: dict[str, Any] = field(default_factory=dict)
    content_length: int | None = None
    robots: str | None = None
    incoming: Incoming | None = None

    def policy_metadata(self) -> dict[str, Any]:
        """Return the metadata that policies can read during an upload."""
        return {"mimetype": self.mime_type, "contentLength": self.content_length}

    def metadata(self, incoming: Incoming) -> dict[str, Any]:
        """Return the metadata that is stored."""
        metadata = {
            "eTag": incoming.etag,
            "size": incoming.size,
            "mimetype": self.mime_type,
            "cacheControl": self.cache_control,
            "lastModified": timestamp(datetime.now(UTC)),
            "contentLength": incoming.size,
            "httpStatusCode": 200,
        }
        if self.robots is not None:
            metadata["xRobotsTag"] = self.robots
        return metadata


def is_form(request: Request) -> bool:
    """Return whether the body is a multipart form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


def describe(request: Request) -> Upload:
    """Return the upload that the headers describe. A form has more fields in its body.

    Raises:
        StorageError: ``X-Robots-Tag`` is not valid.
    """
    headers = request.headers
    length = headers.get("content-length")
    if "transfer-encoding" not in headers and length is None:
        length = "0"
    return Upload(
        mime_type=headers.get("content-type") or "application/octet-stream",
        cache_control=headers.get("cache-control") or _NO_CACHE,
        user_metadata=decode_metadata(headers.get("x-metadata")),
        content_length=None if length is None else int(length),
        robots=_check_robots(headers.get("x-robots-tag")),
    )


async def receive_raw(request: Request, upload: Upload, files: FileStore, max_bytes: int) -> None:
    """Receive the body as the object.

    The caller has compared a declared length with the limit of the bucket. As on Supabase, a
    body without a declared length is compared only with the limit of the server.

    Args:
        request: The request with the body.
        upload: The upload that gets the bytes.
        files: The store that holds the bytes until the upload is complete.
        max_bytes: The maximum size of an object on this server, in bytes.

    Raises:
        StorageError: The body is larger than `max_bytes` bytes.
        ClientDisconnect: The client closed the connection.
    """
    upload.incoming = files.receive(None)
    async for piece in request.stream():
        if upload.incoming.size + len(piece) > max_bytes:
            raise too_large()
        upload.incoming.write(piece)


async def receive_form(request: Request, upload: Upload, files: FileStore, limit: int) -> None:
    """Receive a form, whose first file is the object and whose fields describe it.

    Args:
        request: The request with the body.
        upload: The upload that gets the bytes and the fields.
        files: The store that holds the bytes until the upload is complete.
        limit: The maximum size of an object in this bucket, in bytes. Bytes beyond the limit are
            counted, but not stored. So the caller must compare the size with the limit.

    Raises:
        StorageError: The body is not a form, is incomplete, or has no file.
        ClientDisconnect: The client closed the connection.
    """
    form = _Form(files, limit)
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary")
    if not boundary:
        raise invalid_request("Multipart: Boundary not found")
    parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
    try:
        async for piece in request.stream():
            parser.write(piece)
    except FormParserError as error:
        raise invalid_request(f"Multipart: {error}") from None
    finally:
        upload.incoming = form.incoming
    if not form.complete:
        raise invalid_request("Request stream closed before upload could begin")
    if form.incoming is None:
        raise invalid_request("No content provided")
    upload.mime_type = form.fields.get("contentType") or form.mime_type
    upload.cache_control = _NO_CACHE
    if "cacheControl" in form.fields:
        upload.cache_control = f"max-age={form.fields['cacheControl']}"
    upload.user_metadata = _parse_metadata(form.fields.get("metadata"))


class _Form:
    """The receiver of a form: the parser calls its methods for each part of the body."""

    def __init__(self, files: FileStore, limit: int) -> None:
        self._files = files
        self._limit = limit
        self.incoming: Incoming | None = None
        self.mime_type = "text/plain"
        self.fields: dict[str, str] = {}
        self._bytes_left = _FIELD_LIMIT
        self.complete = False
        self._start_part()

    def callbacks(self) -> dict[str, Any]:
        """Return the callbacks for the parser."""
        return {
            "on_part_begin": self._start_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _start_part(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._name: str | None = None
        self._value = b""
        self._is_object = False

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" not in options:
            self._name = options.get(b"name", b"").decode(errors="replace")
        elif self.incoming is None:
            self._is_object = True
            self.incoming = self._files.receive(self._limit)
            mime_type, _ = parse_options_header(self._headers.get(b"content-type", b""))
            self.mime_type = mime_type.decode(errors="replace").lower() or self.mime_type

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_object and self.incoming is not None:
            self.incoming.write(data[start:end])
        elif self._name is not None:
            accepted = data[start:end][: self._bytes_left]
            self._value += accepted
            self._bytes_left -= len(accepted)

    def _end_part(self) -> None:
        if self._name is not None and len(self.fields) < _MAX_FIELDS:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self.complete = True


def decode_metadata(header: str | None) -> dict[str, Any]:
    """Return the user's metadata in ``x-metadata``, JSON in base64; empty if it is not valid."""
    try:
        return _parse_metadata(base64.b64decode(header or "", validate=True).decode())
    except ValueError:
        return {}


def _parse_metadata(text: str | None) -> dict[str, Any]:
    """Return the user's metadata; empty if the text is not a JSON object."""
    try:
        value = json_body.parse(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _check_robots(value: str | None) -> str | None:
    for rule in (value or "").split(","):
        if value is not None and rule.strip().lower() not in _ROBOTS_RULES:
            raise StorageError(
                400,
                "invalid_x_robots_tag",
                f'Invalid X-Robots-Tag header: Invalid X-Robots-Tag rule: "{rule.strip()}"',
                "InvalidRequest",
            )
    return value
