"""The progress and the cancellation of a function, in the process of the worker or another one.

The processes of an executor import this module, so it has few imports.
"""

import asyncio
import contextlib
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from picture_queue._text import clean_line
from picture_queue.providers.base import Progress

_MAX_STATE_SIZE = 10_000  # bytes; a message has at most 200 characters
_WRITE_INTERVAL = 0.1  # seconds between two writes of progress to a file
# The files of a call. `_ACTIVE` is renamed to `_CANCELLED` to ask a function in another process to
# stop, since a rename needs no space on a full disk. A missing file or directory is no request to
# stop: other programs delete old temporary files, and a process may have a /tmp of its own.
_ACTIVE, _CANCELLED, _NEW, _STATE = _FILES = ("active", "cancelled", "new", "state")
_HAS_DESCRIPTORS = os.open in os.supports_dir_fd
# O_NONBLOCK: opening a FIFO would block until another process opens its other end.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class State(NamedTuple):
    """The latest report of a call."""

    has_started: bool = False
    progress: Progress | None = None


class Reporter(Protocol):
    """The connection between a provider and a call of its function."""

    def __call__(self, percent: float, message: str | None = None) -> None:
        """Report progress; see `ProgressReporter`."""

    def open(self) -> None:
        """Prepare one call. The provider calls `close` afterwards.

        Raises:
            OSError: A temporary file cannot be created.
        """

    def start(self) -> None:
        """Report that the function starts.

        Raises:
            asyncio.CancelledError: The prediction was cancelled before.
        """

    def read(self) -> State:
        """Return the latest report of the function."""

    def cancel(self) -> None:
        """Ask the function to stop at its next report."""

    def close(self) -> None:
        """Delete the temporary files, after the call has ended or was dropped."""


class MemoryReporter:
    """A reporter for a function in the process of the worker."""

    def __init__(self) -> None:
        self._state = State()
        self._is_cancelled = False

    def open(self) -> None:
        pass

    def __call__(self, percent: float, message: str | None = None) -> None:
        self._report(_check_progress(percent, message))

    def start(self) -> None:
        self._report(None)

    def _report(self, progress: Progress | None) -> None:
        if self._is_cancelled:
            raise asyncio.CancelledError("the prediction was cancelled")
        self._state = State(True, progress)

    def read(self) -> State:
        return self._state

    def cancel(self) -> None:
        self._is_cancelled = True

    def close(self) -> None:
        pass


class FileReporter:
    """A reporter for a function in another process; both use files in a temporary directory.

    The reporter can be pickled. If the process runs on another machine or does not find the
    directory, progress is not shown and the function cannot be stopped.

    Every user of the machine can write in the directory for temporary files. If our directory were
    deleted while the other process still used its path, another user could create a directory with
    that path, and make the process write into a file of its own user. So the provider deletes the
    directory only after the call has ended, and the process opens it once, checks that it is the
    directory of the provider, and then uses only the descriptor.
    """

    def __init__(self) -> None:
        self._host = socket.gethostname()
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None
        self._directory: _Directory | None = None
        self._state = State()
        self._written_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_directory": None}  # each process opens the directory itself

    def open(self) -> None:
        path = Path(tempfile.mkdtemp(prefix="picture-queue-"))
        try:
            directory = _Directory(path)
            directory.expect_own()
            directory.create(_ACTIVE, b"")
        except BaseException:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise
        self._path, self._directory, self._identity = path, directory, directory.identity

    def __call__(self, percent: float, message: str | None = None) -> None:
        progress = _check_progress(percent, message)
        if time.monotonic() >= self._written_at + _WRITE_INTERVAL:
            self._written_at = time.monotonic()
            self._report(progress)

    def start(self) -> None:
        self._report(None)

    def _report(self, progress: Progress | None) -> None:
        if socket.gethostname() != self._host:
            return
        try:
            directory = self._directory or self._open_again()
        except OSError:  # it was deleted, belongs to another user, or too many files are open
            return
        if directory.contains(_CANCELLED):
            raise asyncio.CancelledError("the prediction was cancelled")
        # Ignore errors: a full disk must not end the function.
        with contextlib.suppress(OSError):
            directory.create(_NEW, json.dumps(progress).encode())
            directory.rename(_NEW, _STATE)

    def _open_again(self) -> "_Directory":
        """Open the directory of the provider in the process of the function.

        Raises:
            FileNotFoundError: The directory was deleted, or its path names another directory.
            OSError: The directory cannot be opened.
        """
        if self._path is None:
            raise FileNotFoundError
        directory = _Directory(self._path)
        if directory.identity != self._identity:
            raise FileNotFoundError
        directory.expect_own()
        self._directory = directory
        return directory

    def read(self) -> State:
        directory = self._directory
        if directory is not None:
            # The function can write any content into the file.
            with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
                progress = json.loads(directory.read(_STATE, _MAX_STATE_SIZE))
                self._state = State(True, _parse_progress(progress))
        return self._state

    def cancel(self) -> None:
        directory = self._directory
        if directory is None:
            return
        with contextlib.suppress(OSError):
            try:
                directory.rename(_ACTIVE, _CANCELLED)
            except FileNotFoundError:  # another program deleted it, or this is the second request
                directory.create(_CANCELLED, b"")

    def close(self) -> None:
        self.read()
        directory, self._directory = self._directory, None
        if directory is not None and self._path is not None:
            for name in _FILES:
                directory.delete(name)
            with contextlib.suppress(OSError):
                self._path.rmdir()


class _Directory:
    """An open directory whose files are opened relative to its descriptor.

    Another user can replace the path of a directory, but not an open descriptor. Windows has no
    such descriptors, so there the files are opened by their paths. On Windows each user has a
    separate directory for temporary files.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        if _HAS_DESCRIPTORS:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW)

    def __del__(self) -> None:
        # The descriptor must stay open until the last thread of the function has used it.
        descriptor: int | None = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)

    def _stat(self) -> os.stat_result:
        return os.stat(self._path if self._descriptor is None else self._descriptor)

    @property
    def identity(self) -> tuple[int, int]:
        """The device and the inode of the directory."""
        info = self._stat()
        return info.st_dev, info.st_ino

    def expect_own(self) -> None:
        """Check that the directory belongs to the user of this process.

        Raises:
            PermissionError: The directory belongs to another user.
        """
        if self._descriptor is not None and self._stat().st_uid != os.geteuid():
            raise PermissionError

    def _name(self, name: str) -> str:
        return name if self._descriptor is not None else str(self._path / name)

    def _open(self, name: str, flags: int) -> int:
        flags |= _NO_FOLLOW | getattr(os, "O_BINARY", 0)
        return os.open(self._name(name), flags, 0o600, dir_fd=self._descriptor)

    def contains(self, name: str) -> bool:
        """Return whether the directory has an entry; False if that cannot be read."""
        try:
            os.stat(self._name(name), dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def create(self, name: str, content: bytes) -> None:
        """Write a new file.

        Raises:
            OSError: The file exists, or cannot be written.
        """
        descriptor = self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
        except OSError:
            self.delete(name)
            raise

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file, or its first bytes.

        Raises:
            OSError: The file does not exist, or cannot be read.
        """
        with open(self._open(name, os.O_RDONLY), "rb") as file:
            return file.read(max_bytes)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file; an existing file with the new name is replaced."""
        directory = self._descriptor
        os.replace(
            self._name(name), self._name(new_name), src_dir_fd=directory, dst_dir_fd=directory
        )

    def delete(self, name: str) -> None:
        """Delete a file. A file that cannot be deleted stays."""
        with contextlib.suppress(OSError):
            os.unlink(self._name(name), dir_fd=self._descriptor)


def _parse_progress(content: Any) -> Progress | None:
    """Return the progress that another process wrote.

    Raises:
        TypeError: The content is neither null nor a percentage and a message.
        ValueError: The percentage is not 0 to 100, or the list has another length.
    """
    if content is None:
        return None
    percent, message = content
    if type(percent) is not int or not isinstance(message, str | None):
        raise TypeError("the progress is not an integer and a text")
    return _check_progress(percent, message)


def _check_progress(percent: float, message: str | None) -> Progress:
    if not 0 <= percent <= 100:
        raise ValueError(f"progress({percent!r}): the percentage is not 0 to 100")
    return Progress(int(percent), None if message is None else clean_line(str(message), 200))
