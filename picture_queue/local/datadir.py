"""The files of a stack's data directory: lock, logs, secrets, and status of the running stack.

Root only reads and deletes these files, and signals processes of the user that runs the stack.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from picture_queue._files import OpenDirectory
from picture_queue.errors import LocalStackError, StackAlreadyRunning
from picture_queue.local.checked_directory import (
    CHOOSE_ANOTHER_HINT,
    LOCK,
    MARKER,
    PLATFORM_DIGEST,
    CheckedDirectory,
)
from picture_queue.local.keys import Secrets
from picture_queue.local.ownership import (
    expect_safe_path,
    make_own_directory,
    read_own,
    write_own,
)
from picture_queue.local.paths import default_data_dir
from picture_queue.local.processes import end_orphan, find_process

_STATE = "state.json"
_SECRETS = "secrets.json"
_PROGRAMS = "programs.json"
_POLL_INTERVAL = 0.02  # seconds
_GUARD_TIMEOUT = 30.0  # seconds in which the guard of a killed stack ends its programs
#: The values that `local status` shows.
_STATUS_NAMES = {
    *("API_URL", "DB_URL", "ANON_KEY", "SERVICE_ROLE_KEY", "PUBLISHABLE_KEY", "SECRET_KEY"),
    *("JWT_SECRET", "REPLICATE_URL", "REPLICATE_TOKEN", "DATA_DIR", "POSTGRES", "POSTGREST"),
}
# Errors of a file with other content than ours.
_CONTENT_ERRORS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
# All files that a stack creates. `delete` deletes no others, since a user may have added files.
_STACK_FILES = {
    MARKER,
    PLATFORM_DIGEST,
    LOCK,
    "logs",
    "postgres",
    "postgrest.sock",
    _PROGRAMS,
    _SECRETS,
    _STATE,
    "storage",
    # A killed start leaves these files behind.
    "initdb-started",
    "password",
    "password.new",
    "programs.new",
    "secrets.new",
    "state.new",
}


class DataDir(CheckedDirectory):
    """The data directory of a stack.

    Args:
        path: The path; the first start creates the directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _STACK_FILES)
        self.logs = self.path / "logs"
        self.storage = self.path / "storage"
        self.postgrest_socket = self.path / "postgrest.sock"
        self._state = self.path / _STATE
        self._secrets = self.path / _SECRETS
        self._programs = self.path / _PROGRAMS

    def log_path(self, name: str) -> Path:
        """Return the path of a program's log."""
        return self.logs / f"{name}.log"

    def command(self, subcommand: str) -> str:
        """Return the command line of a `picture-queue local` command for this directory."""
        option = "" if self.path == default_data_dir() else f" --data-dir {self.path}"
        return f"`picture-queue local {subcommand}{option}`"

    def _expect_stopped(self) -> None:
        if self.find_daemon() is not None:
            raise self._already_running()

    def make_subdirectories(self) -> None:
        """Create the subdirectories, as the user that runs the stack.

        Raises:
            LocalStackError: A subdirectory cannot be created, or its path is not a directory.
        """
        try:
            for directory in (self.logs, self.storage):
                make_own_directory(directory)
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be used: {error.strerror}",
                detail=str(error.filename),
                hint=CHOOSE_ANOTHER_HINT,
            ) from error

    async def lock(self) -> int:
        """Lock the directory for this process.

        The guard of a killed stack holds the lock until the programs have ended.

        Returns:
            The descriptor that holds the lock. The lock is free when all copies of this descriptor
            are closed.

        Raises:
            StackAlreadyRunning: Another stack holds the lock.
            LocalStackError: The programs of a killed stack do not end.
        """
        deadline = time.monotonic() + _GUARD_TIMEOUT
        while True:
            with self._open_checked() as directory:
                descriptor = self._try_lock(directory)
            if descriptor is not None:
                return descriptor
            if self.find_daemon() is not None:
                raise self._already_running()
            if time.monotonic() > deadline:
                raise LocalStackError(
                    "The programs of an earlier stack do not end", detail=str(self.path)
                )
            await asyncio.sleep(_POLL_INTERVAL)

    def _already_running(self) -> StackAlreadyRunning:
        return StackAlreadyRunning(
            "A stack is already running in this data directory",
            detail=str(self.path),
            hint=f"See it with {self.command('status')}, or stop it with {self.command('stop')}.",
        )

    def _try_lock(self, directory: OpenDirectory) -> int | None:
        descriptor = self._open_file(directory, LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `delete` may have deleted the file between the two calls.
            if os.path.samestat(os.fstat(descriptor), directory.stat(LOCK, follow_symlinks=False)):
                holder = {"pid": os.getpid(), "started": psutil.Process().create_time()}
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
        return None

    def is_locked(self) -> bool:
        """Return whether a stack, or a program that outlived its stack, runs in this directory."""
        try:
            with self._open_checked() as directory:
                descriptor = self._open_file(directory, LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def find_daemon(self) -> psutil.Process | None:
        """Return the daemon that holds the lock; None if no daemon runs, such as after a kill."""
        if not self.is_locked():
            return None
        with contextlib.suppress(OSError, *_CONTENT_ERRORS):
            with self._open_checked() as directory:
                holder = json.loads(self._read_file(directory, LOCK))
                owner = directory.info().st_uid
            return find_process(holder["pid"], holder["started"], owner)
        return None

    def write_programs(self, started: Mapping[int, float]) -> None:
        """Write the pids and start times of the running programs, for `find_programs`."""
        with contextlib.suppress(OSError):  # a full disk must not keep a stack from stopping
            write_own(self._programs, json.dumps(list(started.items())))

    def find_programs(self) -> list[psutil.Process]:
        """Return the recorded programs that still run, the last started first.

        If no daemon runs, these programs have outlived their stack: its daemon and its guard were
        killed.
        """
        with contextlib.suppress(OSError, LocalStackError), self._open_checked() as directory:
            return self._find_programs(directory)
        return []

    def _find_programs(self, directory: OpenDirectory) -> list[psutil.Process]:
        with contextlib.suppress(OSError, LocalStackError, *_CONTENT_ERRORS):
            recorded = json.loads(self._read_file(directory, _PROGRAMS))
            owner = directory.info().st_uid
            processes = (find_process(pid, started, owner) for pid, started in reversed(recorded))
            return [process for process in processes if process is not None]
        return []

    def end_orphans(self) -> None:
        """End the programs that outlived their stack. The caller holds the lock."""
        with self._open_checked() as directory:
            self._end_orphans(directory)

    def _end_orphans(self, directory: OpenDirectory) -> None:
        for process in self._find_programs(directory):
            end_orphan(process)
        with contextlib.suppress(OSError):
            directory.delete_file(_PROGRAMS)

    def _read_file(self, directory: OpenDirectory, name: str) -> str:
        """Read a file of the caller or of the directory's owner."""
        return read_own(directory.path / name, directory.info().st_uid, directory)

    def postgres_version(self) -> int | None:
        """Return the major version of the Postgres that created the data; None without data."""
        with (
            contextlib.suppress(OSError, ValueError, LocalStackError),
            self._open_checked() as directory,
            OpenDirectory(self.path / "postgres", directory) as postgres,
        ):
            return int(self._read_file(postgres, "PG_VERSION"))
        return None

    def read_secrets(self) -> Secrets | None:
        """Return the stack's secrets; None if there is no file of secrets.

        Before the first start there is no such file. The first versions did not write it. A file of
        a later version may lack a secret; each call then generates another value for it.

        Raises:
            LocalStackError: The file cannot be read.
        """
        try:
            with self._open_checked() as directory:
                text = self._read_file(directory, _SECRETS)
            return Secrets.from_json(json.loads(text))
        except FileNotFoundError:
            return None
        except (OSError, *_CONTENT_ERRORS) as error:
            raise LocalStackError(
                f"The stack's secrets cannot be read: {error}",
                detail=str(self._secrets),
                hint="Delete the file: the next start makes new ones.",
            ) from error

    def write_secrets(self, secrets: Secrets) -> None:
        """Write the secrets for later starts, with mode 0600."""
        write_own(self._secrets, json.dumps(secrets.as_json(), indent=2))

    def write_state(self, state: dict[str, Any]) -> None:
        """Write the status of the running stack for other processes, with mode 0600."""
        write_own(self._state, json.dumps(state, indent=2))

    def read_state(self) -> dict[str, Any] | None:
        """Return the status that the running stack wrote; None if no stack runs or is ready.

        Raises:
            LocalStackError: The file has other content.
        """
        if self.find_daemon() is None:
            return None
        try:
            with self._open_checked() as directory:
                text = self._read_file(directory, _STATE)
            state: dict[str, Any] = json.loads(text)
            _expect_state(state)
        except OSError:
            return None
        except _CONTENT_ERRORS as error:
            raise LocalStackError(
                f"The status of the stack cannot be read: {error}",
                detail=str(self._state),
                hint=f"Stop the stack with {self.command('stop')}, and start it again.",
            ) from error
        return state

    def clear_state(self) -> None:
        """Delete the status, at a stop and at a start after a stack was killed."""
        self._state.unlink(missing_ok=True)

    def clean_up(self) -> None:
        """End the programs that outlived their stack.

        Raises:
            StackAlreadyRunning: A stack is running in the directory.
        """
        with self._open_checked() as directory, self._lock_and_end_orphans(directory):
            pass

    @contextlib.contextmanager
    def _lock_and_end_orphans(self, directory: OpenDirectory) -> Iterator[None]:
        descriptor = self._try_lock(directory)
        if descriptor is None:
            raise self._already_running()
        try:
            self._end_orphans(directory)
            yield
        finally:
            os.close(descriptor)

    def is_marked(self) -> bool:
        """Return whether a start of a stack has used the directory.

        Raises:
            LocalStackError: The path belongs to another user, is a symlink, or is not a directory.
        """
        try:
            with self._open_checked() as directory:
                return self._is_marked(directory)
        except OSError:
            return False

    def expect_stack(self) -> None:
        """Check that a stack has used the directory, or that it is empty or does not exist.

        Raises:
            LocalStackError: The directory contains files, and no stack has used it, or other users
                can write into it.
        """
        try:
            with self._open_checked() as directory:
                self._expect_stack(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be read: {error.strerror}", detail=str(self.path)
            ) from error

    def _expect_stack(self, directory: OpenDirectory) -> None:
        if not directory.names():
            return
        self._check_closed(directory.info())
        if not self._is_marked(directory):
            raise LocalStackError(
                "There is no stack in this directory",
                detail=str(self.path),
                hint="Name the data directory of a stack with --data-dir.",
            )

    def delete(self) -> None:
        """Delete the files of a stack, and the directory if it contains no other files.

        Raises:
            StackAlreadyRunning: A stack is running in the directory.
            LocalStackError: No stack has used the directory, other users can write into it, or a
                file cannot be deleted.
        """
        if not self.exists():
            return
        expect_safe_path(self.path.parent)
        try:
            with self._open_checked() as directory:
                self._expect_stack(directory)
                with self._lock_and_end_orphans(directory):
                    # Delete the markers last. If a file cannot be deleted, `delete` can be
                    # repeated.
                    others = _STACK_FILES - {MARKER, PLATFORM_DIGEST}
                    for name in (*others, PLATFORM_DIGEST, MARKER):
                        with contextlib.suppress(FileNotFoundError):
                            directory.delete_entry(name)
                    with contextlib.suppress(OSError):
                        self.path.rmdir()  # deletes neither a symlink nor a directory with entries
        except OSError as error:
            raise LocalStackError(
                f"The data cannot be deleted: {error.strerror}",
                detail=str(self.path / (error.filename or "")),
            ) from error


def _expect_state(state: Any) -> None:
    """Check the structure of a status.

    Raises:
        ValueError: It has another structure.
    """
    status = state.get("status") if isinstance(state, dict) else None
    if not isinstance(status, dict) or not isinstance(state.get("superuser_url"), str):
        raise ValueError("it has no object `status` or no text `superuser_url`")
    for name in sorted(_STATUS_NAMES | status.keys()):
        if not isinstance(status.get(name), str):
            raise ValueError(f"status.{name} is not a text")
