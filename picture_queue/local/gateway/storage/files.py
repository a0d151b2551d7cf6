"""The bytes of objects. A file is named by the version's UUID, never by what a client sent."""

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import BinaryIO


class Incoming:
    """A file that is being received: nobody sees it before `FileStore.keep`.

    Args:
        path: Where it is written meanwhile.
        limit: Bytes kept at most, None for all; what comes after is counted and thrown away.
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
        """End writing."""
        self._file.close()

    def discard(self) -> None:
        """Remove the file, if it was not kept."""
        self.close()
        self.path.unlink(missing_ok=True)


class FileStore:
    """A directory of object versions.

    Args:
        root: Made if missing.
    """

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._incoming = root / "incoming"

    def open(self) -> None:
        """Make the directories, and delete uploads that an earlier run did not finish."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        self._objects.mkdir(exist_ok=True)

    def receive(self, limit: int | None) -> Incoming:
        """Begin a new file."""
        return Incoming(self._incoming / str(uuid.uuid4()), limit)

    def keep(self, incoming: Incoming, version: uuid.UUID) -> None:
        """Make a received file a version, in one step."""
        incoming.close()
        target = self._path(version)
        target.parent.mkdir(exist_ok=True)
        os.replace(incoming.path, target)

    def copy(self, source: str, version: uuid.UUID) -> bool:
        """Make a version with the bytes of another; False if that is not there."""
        target = self._path(version)
        target.parent.mkdir(exist_ok=True)
        try:
            # Versions never change, so two names of one file do.
            os.link(self._path(uuid.UUID(source)), target)
        except (FileNotFoundError, ValueError, TypeError):
            return False
        except OSError:  # a file system without links
            shutil.copyfile(self._path(uuid.UUID(source)), target)
        return True

    def read(self, version: str | None) -> BinaryIO | None:
        """Open a version; None if there is none."""
        try:
            return self._path(uuid.UUID(version)).open("rb")
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def remove(self, version: str | None) -> None:
        """Remove a version; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            self._path(uuid.UUID(version)).unlink()

    def _path(self, version: uuid.UUID) -> Path:
        # 256 directories keep each one small enough to list.
        return self._objects / version.hex[:2] / str(version)
