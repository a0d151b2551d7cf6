"""The routes of uploaded files, which a prediction may have as inputs. Files are in memory only."""

import hashlib
import secrets
import string
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from picture_queue.local import json_body
from picture_queue.local.simulator.requests import base_url, simulator_of
from picture_queue.local.simulator.responses import answer, not_found, refused_body
from picture_queue.local.simulator.times import iso_time

MAX_FILE_BYTES = 20_000_000
_MAX_TOTAL_BYTES = 100_000_000  # beyond this total, the oldest files are deleted
_MAX_FORM_BYTES = 50_000  # of the other fields and the boundaries of a form
_MAX_NAME_BYTES = 255
_LIFETIME = 86_400.0  # seconds
_ALPHABET = string.ascii_letters + string.digits


def _random_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(48))


@dataclass(frozen=True)
class UploadedFile:
    """A file that a client has uploaded.

    Attributes:
        created: Unix time of the upload.
    """

    name: str
    content_type: str
    data: bytes
    metadata: dict[str, Any]
    created: float
    id: str = field(default_factory=_random_id)

    def as_json(self, base: str) -> dict[str, Any]:
        """Return the file object of Replicate's API."""
        digest = hashlib.sha256(self.data).hexdigest()
        return {
            "id": self.id,
            "name": self.name,
            "content_type": self.content_type,
            "size": len(self.data),
            "etag": digest[:32],
            "checksums": {"sha256": digest},
            "metadata": self.metadata,
            "created_at": iso_time(self.created),
            "expires_at": iso_time(self.created + _LIFETIME),
            "urls": {"get": f"{base}/v1/files/{self.id}"},
        }


class Uploads:
    """The uploaded files."""

    def __init__(self) -> None:
        self._files: dict[str, UploadedFile] = {}

    def add(self, file: UploadedFile) -> None:
        """Add a file, and delete the oldest files until the total size is within the limit."""
        self._files[file.id] = file
        while sum(len(stored.data) for stored in self._files.values()) > _MAX_TOTAL_BYTES:
            del self._files[next(iter(self._files))]

    def get(self, file_id: str, now: float) -> UploadedFile | None:
        """Return a file; None if it does not exist or has expired."""
        file = self._files.get(file_id)
        return None if file is None or now >= file.created + _LIFETIME else file

    def list(self, now: float) -> list[UploadedFile]:
        """Return all files, newest first."""
        return [file for file in reversed(self._files.values()) if self.get(file.id, now)]

    def delete(self, file_id: str) -> bool:
        """Delete a file; return False if there is no such file."""
        return self._files.pop(file_id, None) is not None

    def clear(self) -> None:
        """Delete all files."""
        self._files.clear()


async def create_file(request: Request) -> Response:
    """``POST /files``."""
    form = await _read_form(request)
    try:
        content, metadata = form.get("content"), _parse_metadata(form.get("metadata"))
        if content is None or isinstance(content, str):
            return refused_body("content is required")
        if metadata is None:
            return refused_body("metadata must be a JSON object")
        name = content.filename or "file"
        if len(name.encode(errors="replace")) > _MAX_NAME_BYTES:
            return refused_body(f"filename must have at most {_MAX_NAME_BYTES} bytes")
        data = await content.read()
        content_type = content.content_type or "application/octet-stream"
    finally:
        await form.close()
    if len(data) > MAX_FILE_BYTES:
        raise json_body.BodyTooLarge(MAX_FILE_BYTES)
    file = UploadedFile(name, content_type, data, metadata, simulator_of(request).clock())
    _uploads(request).add(file)
    return answer(file.as_json(base_url(request)), 201)


async def list_files(request: Request) -> Response:
    """``GET /files``."""
    files = _uploads(request).list(simulator_of(request).clock())[:100]
    results = [file.as_json(base_url(request)) for file in files]
    return answer({"previous": None, "next": None, "results": results})


async def get_file(request: Request) -> Response:
    """``GET /files/{id}``."""
    file = _uploads(request).get(request.path_params["id"], simulator_of(request).clock())
    return not_found() if file is None else answer(file.as_json(base_url(request)))


async def delete_file(request: Request) -> Response:
    """``DELETE /files/{id}``."""
    is_deleted = _uploads(request).delete(request.path_params["id"])
    return Response(status_code=204) if is_deleted else not_found()


def _uploads(request: Request) -> Uploads:
    uploads: Uploads = request.app.state.uploads
    return uploads


async def _read_form(request: Request) -> FormData:
    """Return the form of a request of bounded size.

    Raises:
        BodyTooLarge: The body is larger than a file may be.
        HTTPException: The body is not a form.
    """
    body = await json_body.receive(request, MAX_FILE_BYTES + _MAX_FORM_BYTES)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    bounded = Request(request.scope, receive)
    try:
        return await bounded.form(max_files=1, max_fields=10, max_part_size=_MAX_FORM_BYTES)
    except (ValueError, LookupError):
        raise HTTPException(400, "The body must be a form with the file in content") from None


def _parse_metadata(text: Any) -> dict[str, Any] | None:
    """Return the metadata of a form; None if the text is not a JSON object."""
    if text is None:
        return {}
    try:
        value = json_body.parse(text if isinstance(text, str) else "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
