"""Checks of the names of buckets and objects, and of their MIME types."""

import re
from collections.abc import Sequence
from typing import Final

from picture_queue.local.gateway.storage.errors import (
    bad_bucket_name,
    invalid_key,
    invalid_mime_type,
)

# The characters that storage-api allows: the safe characters of S3 and some others. Only names of
# objects may have a slash too.
_ALLOWED: Final = r"A-Za-z0-9_!\-.*'() &$@=;:+,?"
_OBJECT: Final = re.compile(rf"[{_ALLOWED}/]+")
_BUCKET: Final = re.compile(rf"[{_ALLOWED}]{{1,100}}")
_MIME: Final = re.compile(r"[^/\s]+/[^/\s]+|\*")


def check_object_name(name: str) -> None:
    """Check the name of an object.

    Raises:
        StorageError: The name is empty, or has forbidden characters or a segment ``.`` or ``..``.
    """
    if not _OBJECT.fullmatch(name):
        raise invalid_key(name)
    if not {".", ".."}.isdisjoint(name.split("/")):
        raise invalid_key(f"{name} contains dot path segment")


def check_bucket_name(name: str) -> None:
    """Check the name of a bucket.

    Raises:
        StorageError: The name is empty or too long, has forbidden characters, or begins or ends
            with a space.
    """
    if not _BUCKET.fullmatch(name) or name != name.strip():
        raise bad_bucket_name()


def check_mime_types(mime_types: Sequence[str]) -> None:
    """Check the MIME types that a bucket allows.

    Raises:
        StorageError: An entry is not a MIME type.
    """
    for mime_type in mime_types:
        if not _MIME.fullmatch(mime_type):
            raise invalid_mime_type(mime_type)


def check_mime_type(mime_type: str, allowed: Sequence[str] | None) -> None:
    """Check that a bucket allows the MIME type of an object.

    Args:
        mime_type: The type of the object.
        allowed: The types that the bucket allows. Empty or None allows all types, and ``video/*``
            every type of video.

    Raises:
        StorageError: The bucket does not allow the type.
    """
    if not allowed:
        return
    family = mime_type.partition("/")[0]
    if not any(
        entry == mime_type or (entry == f"{family}/*" and family != "*") for entry in allowed
    ):
        raise invalid_mime_type(mime_type)
