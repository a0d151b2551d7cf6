"""Responses to downloads of objects, with range and conditional requests."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from picture_queue.local.gateway.storage.errors import bad_range

_CHUNK: Final = 256 * 1024  # bytes
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e\xa0-\xff]*")
# Browsers run no scripts in files of these types, so these files need no sandbox. The PDF viewers
# of browsers do not work in a sandbox.
_SCRIPTLESS: Final = re.compile(
    r"((image|audio|video)/[\w.-]+|application/pdf) *(;[^,]*)?", re.IGNORECASE
)


def http_date(moment: datetime) -> str:
    """Return a time in the format of HTTP headers."""
    return format_datetime(moment.astimezone(UTC).replace(microsecond=0), usegmt=True)


def last_modified(metadata: Mapping[str, Any]) -> datetime:
    """Return the time when the bytes were written."""
    return datetime.fromisoformat(metadata["lastModified"])


def send_object(
    request: Request, file: BinaryIO, metadata: Mapping[str, Any], *, expires: str | None = None
) -> Response:
    """Return the answer to a GET or HEAD of an object; close the file when it is sent.

    Args:
        request: The request, which may have a range, a condition, and a name for the download.
        file: The file with the bytes.
        metadata: The metadata of the object.
        expires: Value of ``Expires`` instead of the object's cache control.

    Raises:
        StorageError: The range cannot be served.
    """
    size: int = metadata["size"]
    headers = _headers(request, metadata, expires)
    if request.method == "HEAD":
        file.close()
        return Response(headers={**headers, "content-length": str(size)})
    if _is_unchanged(request, metadata):
        file.close()
        return Response(status_code=304, headers={**headers, "content-length": "0"})
    if "if-none-match" in request.headers and "cache-control" in headers:
        # A client that revalidates may show the old picture while the new one loads.
        headers["cache-control"] += ", stale-while-revalidate=30"
    first, last, status = 0, size - 1, 200
    if "range" in request.headers:
        try:
            first, last = _parse_range(request.headers["range"], size)
        except ValueError:
            file.close()
            raise bad_range() from None
        headers["content-range"] = f"bytes {first}-{last}/{size}"
        status = 206
    length = last - first + 1
    headers["content-length"] = str(length)
    return StreamingResponse(_read_range(file, first, length), status_code=status, headers=headers)


def _headers(request: Request, metadata: Mapping[str, Any], expires: str | None) -> dict[str, str]:
    mime_type = header_value(metadata["mimetype"], "application/octet-stream")
    headers = {
        "accept-ranges": "bytes",
        # Show HTML as text: a page in a bucket must not run with the project's origin.
        "content-type": "text/plain" if "text/html" in mime_type.lower() else mime_type,
        "x-content-type-options": "nosniff",
        "etag": metadata["eTag"],
        "x-robots-tag": header_value(metadata.get("xRobotsTag", "none"), "none"),
        "last-modified": http_date(last_modified(metadata)),
    }
    if not _SCRIPTLESS.fullmatch(mime_type):
        # SVG, XHTML and XML may contain scripts. In a sandbox, scripts do not run, and the page
        # does not have the origin of the project.
        headers["content-security-policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; sandbox"
        )
    if expires is None:
        headers["cache-control"] = header_value(metadata["cacheControl"], "no-cache")
    else:
        headers["expires"] = expires
    if "download" in request.query_params:
        headers["content-disposition"] = _content_disposition(request.query_params["download"])
    return headers


def header_value(value: object, default: str) -> str:
    """Return the value if it is valid in a header, otherwise `default`.

    Values from form fields may contain line breaks.
    """
    return value if isinstance(value, str) and _HEADER_VALUE.fullmatch(value) else default


def _content_disposition(name: str) -> str:
    if not name:
        return "attachment;"
    encoded = quote(name, safe="!'()*~")
    return f"attachment; filename={encoded}; filename*=UTF-8''{encoded}"


def _is_unchanged(request: Request, metadata: Mapping[str, Any]) -> bool:
    etag = request.headers.get("if-none-match")
    if etag is not None:
        return bool(etag == metadata["eTag"])
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        moment = parsedate_to_datetime(since).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return last_modified(metadata).replace(microsecond=0) <= moment


def _parse_range(text: str, size: int) -> tuple[int, int]:
    """Return the first and last byte of a single range.

    Raises:
        ValueError: The range is not valid, or none of its bytes exist.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    start, end = match.groups()
    if start:
        first, last = int(start), min(int(end or size), size - 1)
    else:
        first, last = max(size - int(end), 0), size - 1
    if first > last:
        raise ValueError(text)
    return first, last


def _read_range(file: BinaryIO, first: int, length: int) -> Iterator[bytes]:
    with file:
        file.seek(first)
        while length > 0 and (piece := file.read(min(_CHUNK, length))):
            length -= len(piece)
            yield piece
