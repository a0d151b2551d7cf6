"""The files of objects. A file is named by the UUID of its version, never by a client's text."""

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import BinaryIO


class Incoming:
    """A file that is being received. It becomes visible with `FileStore.commit`.

    Args:
        path: The temporary path.
        limit: Maximum bytes to write; None: no limit. Bytes beyond the limit are counted in `size`,
            but not written.
    """

    def __init__(self, path: Path, limit: int | None) -> None:
        self.path = path
        self.size = 0
        self._limit = limit
        self._file = path.open("wb")
        self._digest = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        if self._limit is None or self.size <= self._limit:
            self._digest.update(data)
            self._file.write(data)

    @property
    def etag(self) -> str:
        """MD5 of the bytes, in quotes."""
        return f'"{self._digest.hexdigest()}"'

    def close(self) -> None:
        """Close the file, without a commit."""
        self._file.close()

    def discard(self) -> None:
        """Delete the file unless it was committed."""
        self.close()
        self.path.unlink(missing_ok=True)


class FileStore:
    """A directory of object versions.

    Args:
        root: The directory; created if it does not exist.
    """

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._incoming = root / "incoming"

    def open(self) -> None:
        """Create the directories, and delete uploads that an earlier run did not finish."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        self._objects.mkdir(exist_ok=True)

    def receive(self, limit: int | None) -> Incoming:
        """Create a temporary file for an upload."""
        return Incoming(self._incoming / str(uuid.uuid4()), limit)

    def commit(self, incoming: Incoming, version: uuid.UUID) -> None:
        """Store a received file as a version, atomically."""
        incoming.close()
        target = self._path(version)
        target.parent.mkdir(exist_ok=True)
        os.replace(incoming.path, target)

    def copy(self, source: str, version: uuid.UUID) -> bool:
        """Copy the version `source` as `version`; return False if `source` does not exist."""
        target = self._path(version)
        target.parent.mkdir(exist_ok=True)
        try:
            # Versions never change, so a hard link is enough.
            os.link(self._path(uuid.UUID(source)), target)
        except (FileNotFoundError, ValueError, TypeError):
            return False
        except OSError:  # a file system without hard links
            shutil.copyfile(self._path(uuid.UUID(source)), target)
        return True

    def read(self, version: str | None) -> BinaryIO | None:
        """Open a version; None if it does not exist."""
        try:
            return self._path(uuid.UUID(version)).open("rb")
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def remove(self, version: str | None) -> None:
        """Delete a version, if it exists."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            self._path(uuid.UUID(version)).unlink()

    def _path(self, version: uuid.UUID) -> Path:
        # Spread the files over 256 directories, so that no directory becomes too large.
        return self._objects / version.hex[:2] / str(version)
