"""A picture between its download and its upload.

A small picture is kept in memory. A larger one is written to a temporary file as it arrives, and
read from it for the upload, so its size does not matter to the memory of the worker.
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

_MEMORY_BYTES = 1024 * 1024  # of a picture that is kept in memory; also the length of each write


class TemporaryFileError(Exception):
    """A temporary file cannot be written, perhaps because the disk is full."""


class PictureFile:
    """The bytes of one picture. Use it in a ``with`` block, which deletes the temporary file.

    If no temporary file can be created, the whole picture is kept in memory.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None
        self._has_no_directory = False
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
        if len(self._buffer) >= _MEMORY_BYTES and not self._has_no_directory:
            await asyncio.to_thread(self._flush)

    def clear(self) -> None:
        """Delete what was written."""
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
        """Return an object whose slices are parts of the bytes, to read all of them in order.

        It reads the temporary file instead of mapping it, since the pages of a map would count as
        memory of this process.
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
                self._has_no_directory = True
                _log.warning("pictures are kept in memory: no temporary file: %s", error)
                return
        try:
            self._file.write(self._buffer)
        except OSError as error:
            raise TemporaryFileError(str(error)) from error
        self._buffer = bytearray()


class _FileParts:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getitem__(self, part: slice) -> bytes:
        return os.pread(self._file.fileno(), part.stop - part.start, part.start)


class PictureContent:
    """The bytes of a picture to store, which can be read several times.

    Args:
        parts: The file as it was downloaded.
        cleaned: The parts of it to store.
    """

    def __init__(self, parts: Parts, cleaned: CleanedImage) -> None:
        self._parts = parts
        self._cleaned = cleaned
        self.size = cleaned.size

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes."""
        return self._cleaned.chunks(self._parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks():
            yield chunk

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes in hexadecimal digits."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()
