# Written by scripts/unasync.py from picture_queue/_async/picture_files.py: edit that file.

"""The files of pictures in Supabase Storage."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from picture_queue._ids import new_id
from picture_queue._json import encode
from picture_queue._rpc import Rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue._transport.base import StorageCall, parse_answer
from picture_queue.errors import Conflict, InvalidArgument
from picture_queue.records import Image

BUCKET = "pictures"
_UPLOADS = "uploads"  # the bucket of uploaded pictures
_MAX_UPLOAD_BYTES = 10 * 1024 * 1024  # the file size limit of the bucket
# The signature at the start of a file, and the subtype of its MIME type.
_UPLOAD_FORMATS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
)
_JSON = {"Content-Type": "application/json"}


def storage_path(image: Image, thumbnail: bool) -> str:
    """Return the path of a picture or of its thumbnail, without the bucket."""
    return (image.thumbnail_path if thumbnail else None) or image.path


def download_picture(backend: Backend, image: Image, thumbnail: bool) -> bytes:
    """Return the bytes of a picture or of its thumbnail."""
    path = storage_path(image, thumbnail)
    return backend.storage(StorageCall("GET", f"object/{BUCKET}/{path}"))


def sign_url(backend: Backend, path: str, seconds: int, download: bool = False) -> str:
    """Return a signed URL that is valid for some seconds; the path begins with the bucket."""
    body = encode({"expiresIn": seconds})
    answer = backend.storage(StorageCall("POST", f"object/sign/{path}", body, _JSON))
    signed = parse_answer(Rpc("create_signed_url", {}, lambda data: data["signedURL"]), answer)
    return _full_url(backend, signed, download)


def sign_urls(
    backend: Backend, paths: Sequence[str], seconds: int, download: bool
) -> list[str | None]:
    """Return signed URLs of pictures in one call; None for a file that the caller cannot read."""
    if not paths:
        return []
    body = encode({"paths": paths, "expiresIn": seconds})
    answer = backend.storage(StorageCall("POST", f"object/sign/{BUCKET}", body, _JSON))
    signed = parse_answer(Rpc("create_signed_urls", {}, _parse_signed_urls), answer)
    return [
        None if path not in signed else _full_url(backend, signed[path], download) for path in paths
    ]


def upload_picture(
    backend: Backend, picture: bytes | str | Path, user_id: UUID | str
) -> str:
    """Store a picture as the input of a generation, and return the value of the input.

    Raises:
        InvalidArgument: The file is not a PNG, JPEG or WebP picture, or is too large.
    """
    data = picture if isinstance(picture, bytes) else _read_upload(Path(picture))
    format_ = next((name for signature, name in _UPLOAD_FORMATS if signature.match(data)), None)
    if format_ is None or len(data) > _MAX_UPLOAD_BYTES:
        raise InvalidArgument(
            f"The picture has more than {_MAX_UPLOAD_BYTES} bytes"
            if len(data) > _MAX_UPLOAD_BYTES
            else f"The picture has {len(data)} bytes and is not a PNG, JPEG or WebP file",
            hint="Pass the bytes or the path of a PNG, JPEG or WebP file of up to 10 MiB",
        )
    path = f"{_UPLOADS}/{user_id}/{new_id()}.{format_}"
    headers = {"Content-Type": f"image/{format_}"}
    # The name is new. So if a file has it already, an earlier attempt of this call stored it.
    with suppress(Conflict):
        backend.storage(StorageCall("POST", f"object/{path}", data, headers))
    return f"storage:{path}"


def _read_upload(path: Path) -> bytes:
    """Read a file, but at most one byte more than the limit, which is enough to refuse it."""
    with path.open("rb") as file:
        return file.read(_MAX_UPLOAD_BYTES + 1)


def _full_url(backend: Backend, path: str, download: bool) -> str:
    return f"{backend.storage_url}{path}{'&download=' if download else ''}"


def _parse_signed_urls(data: Any) -> dict[str, str]:
    return {entry["path"]: entry["signedURL"] for entry in data if entry["signedURL"]}
