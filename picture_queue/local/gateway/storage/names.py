"""Names of buckets and objects, and the types a bucket takes."""

import re
from collections.abc import Sequence
from typing import Final

from picture_queue.local.gateway.storage.errors import (
    bad_bucket_name,
    invalid_key,
    invalid_mime_type,
)

# What S3 calls safe, plus a few that need care; the slash for objects only.
_ALLOWED: Final = r"A-Za-z0-9_!\-.*'() &$@=;:+,?"
_OBJECT: Final = re.compile(rf"[{_ALLOWED}/]+")
_BUCKET: Final = re.compile(rf"[{_ALLOWED}]{{1,100}}")
_MIME: Final = re.compile(r"[^/\s]+/[^/\s]+|\*")


def check_object_name(name: str) -> None:
    """Refuse a name that no object can have.

    Raises:
        StorageError: It is empty, has other characters, or has a segment ``.`` or ``..``.
    """
    if not _OBJECT.fullmatch(name):
        raise invalid_key(name)
    if not {".", ".."}.isdisjoint(name.split("/")):
        raise invalid_key(f"{name} contains dot path segment")


def check_bucket_name(name: str) -> None:
    """Refuse a name that no bucket can have.

    Raises:
        StorageError: It is empty, too long, has other characters, or a space at an end.
    """
    if not _BUCKET.fullmatch(name) or name != name.strip():
        raise bad_bucket_name()


def check_mime_types(mime_types: Sequence[str]) -> None:
    """Refuse a bucket's list of types.

    Raises:
        StorageError: One of them is no type.
    """
    for mime_type in mime_types:
        if not _MIME.fullmatch(mime_type):
            raise invalid_mime_type(mime_type)


def check_mime_type(mime_type: str, allowed: Sequence[str] | None) -> None:
    """Refuse an object of a type the bucket does not take.

    Args:
        mime_type: The object's.
        allowed: The bucket's; empty or null allows all, ``video/*`` every video.

    Raises:
        StorageError: The type is not among them.
    """
    if not allowed:
        return
    family = mime_type.partition("/")[0]
    if not any(
        entry == mime_type or (entry == f"{family}/*" and family != "*") for entry in allowed
    ):
        raise invalid_mime_type(mime_type)
