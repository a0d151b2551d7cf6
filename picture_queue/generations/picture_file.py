"""A picture between its download and its upload.

A small picture is kept in memory. A larger picture is written to a temporary file while it is
downloaded, and read from that file for the upload. So the worker needs no more memory for a larger
picture.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from mmap import ACCESS_READ, mmap
from typing import IO, Self

from picture_queue._log import Log
from picture_queue.generations.image_info import Data
from picture_queue.generations.image_metadata import CleanedImage, Parts

_log = Log(__name__)

# A picture of fewer bytes is kept in memory. A larger picture is written in parts of this length.
_MEMORY_BYTES = 1024 * 1024


class TemporaryFileError(Exception):
    """A temporary file cannot be written, perhaps because the disk is full."""


class PictureFile:
    """The bytes of one picture. Use it in a ``with`` block, which deletes the temporary file.

    If no temporary file can be created, the whole picture is kept in memory.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None
        self._cannot_create_file = False
        self._mapped: mmap | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    async def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            TemporaryFileError: The temporary file cannot be written.
        """
        self._buffer += chunk
        if len(self._buffer) >= _MEMORY_BYTES and not self._cannot_create_file:
            await asyncio.to_thread(self._flush)

    def clear(self) -> None:
        """Delete the bytes written so far."""
        self._buffer = bytearray()
        if self._mapped is not None:
            self._mapped.close()
        if self._file is not None:
            self._file.close()
        self._file = self._mapped = None

    def read(self) -> Data:
        """Return all bytes, without a copy of those in the temporary file.

        Raises:
            TemporaryFileError: The temporary file cannot be written or read.
        """
        if self._file is None:
            return self._buffer
        if self._mapped is None:
            self._flush()
            try:
                self._file.flush()
                self._mapped = mmap(self._file.fileno(), 0, access=ACCESS_READ)
            except OSError as error:
                raise TemporaryFileError(str(error)) from error
        return self._mapped

    def parts(self) -> Parts:
        """Return an object whose slices are parts of the bytes, to read all bytes in order.

        A slice is read from the temporary file, which is not mapped: the pages of a mapped file
        would count as memory of this process.
        """
        self.read()
        if self._file is None or not hasattr(os, "pread"):  # Windows has no pread
            return self.read()
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None
        return _FileParts(self._file)

    def _flush(self) -> None:
        if self._file is None:
            try:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `clear` closes it
            except OSError as error:
                self._cannot_create_file = True
                _log.warning("pictures are kept in memory: no temporary file: %s", error)
                return
        try:
            self._file.write(self._buffer)
        except OSError as error:
            raise TemporaryFileError(str(error)) from error
        self._buffer = bytearray()


class _FileParts:
    """A file whose slices are read without a change of the file's position."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getitem__(self, part: slice) -> bytes:
        return os.pread(self._file.fileno(), part.stop - part.start, part.start)


class PictureContent:
    """The bytes of a picture to store, which can be read several times.

    Args:
        original: The whole file as it was downloaded.
        cleaned: The parts of this file to store.
    """

    def __init__(self, original: Parts, cleaned: CleanedImage) -> None:
        self._original = original
        self._cleaned = cleaned
        self.size = cleaned.size

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in chunks."""
        return self._cleaned.chunks(self._original)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks():
            yield chunk

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes in hexadecimal digits."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()
