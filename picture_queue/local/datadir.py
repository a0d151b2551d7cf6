"""A stack's data directory: its files, secrets and lock, and the status of the running stack.

The directory belongs to the user that runs the stack, and has mode 0700. Root gives it to the
service user before a program runs in it. After that, root only reads and deletes files in it and
signals processes of that user.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from picture_queue._files import describe_path, user_name
from picture_queue.errors import LocalStackError, StackAlreadyRunning
from picture_queue.local.keys import Secrets
from picture_queue.local.ownership import (
    expect_safe_path,
    make_own_directory,
    make_safe_directory,
    open_own,
    read_own,
    write_own,
)
from picture_queue.local.paths import (
    ServiceUser,
    default_data_dir,
    expect_passable,
    service_user,
)
from picture_queue.local.processes import end_orphan, find_process

_POLL_INTERVAL = 0.02
_CLEANUP_TIMEOUT = 30.0  # seconds that the guard of a killed stack may take
# All files that a stack writes. `--data-dir` may be a directory with other files.
_STACK_FILES = {
    "postgres",
    "platform.sha256",
    "storage",
    "logs",
    "lock",
    "state.json",
    "secrets.json",
}
_STACK_FILES |= {"postgrest.sock", "programs.json"}
# Files that a killed start leaves behind.
_STACK_FILES |= {"state.new", "secrets.new", "programs.new", "password", "password.new"}
_CHOOSE_ANOTHER = "Choose another with --data-dir."


class DataDir:
    """One data directory.

    Args:
        path: The path; the first start creates the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.storage = self.path / "storage"
        self.postgrest_socket = self.path / "postgrest.sock"
        self._lock = self.path / "lock"
        self._state = self.path / "state.json"
        self._secrets = self.path / "secrets.json"
        self._programs = self.path / "programs.json"

    def log(self, name: str) -> Path:
        """Return the log file of one program."""
        return self.logs / f"{name}.log"

    def command(self, verb: str) -> str:
        """Return the command line for an action on the stack in this directory, for a hint."""
        option = "" if self.path == default_data_dir() else f" --data-dir {self.path}"
        return f"`picture-queue local {verb}{option}`"

    def prepare(self, user: ServiceUser | None) -> None:
        """Create the directory, close it to others, and give it to the service user.

        Args:
            user: The user that will run the stack; None is the caller.

        Raises:
            LocalStackError: The directory cannot be created, other users can replace it, or it
                contains files that do not belong to a stack.
        """
        try:
            expect_safe_path(self.path.parent)
            make_safe_directory(self.path.parent)
            expect_safe_path(self.path.parent)
            if user:
                expect_passable(self.path.parent, user)
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            if not self.exists():
                raise self._replaced()
            directory = self._open()
            try:
                self._check_identity(directory)
                self._close_and_chown(directory, user)
            finally:
                os.close(directory)
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be made: {error.strerror}",
                detail=str(error.filename or self.path),
                hint=_CHOOSE_ANOTHER,
            ) from error

    def _close_and_chown(self, directory: int, user: ServiceUser | None) -> None:
        info = os.fstat(directory)
        self._check_owner(info)
        owner = user.uid if user else os.geteuid()
        if info.st_uid == owner and stat.S_IMODE(info.st_mode) == 0o700:
            return
        if self.daemon() is not None:
            raise self._already_running()  # a stack of an older version
        self._check_contents(directory, info)
        os.fchmod(directory, 0o700)
        # From here on, other users cannot add files. Check those that they added before.
        self._check_contents(directory, info)
        if user and info.st_uid != owner:
            # An older version that root started left files of root.
            for parent, name, _ in _entries(directory):
                os.chown(name, user.uid, user.gid, dir_fd=parent, follow_symlinks=False)
            os.fchown(directory, user.uid, user.gid)

    def _check_contents(self, directory: int, info: os.stat_result) -> None:
        """Check that the directory contains only files of a stack, which only its owner wrote.

        Args:
            directory: The file descriptor of the directory.
            info: The owner and mode of the directory before it was closed to others.
        """
        names = os.listdir(directory)
        if not _STACK_FILES.issuperset(names):
            raise LocalStackError(
                "The data directory contains other files, and a stack would close it to others",
                detail=describe_path(self.path, info),
                hint="Choose an empty directory or a new one with --data-dir.",
            )
        if names and info.st_mode & 0o022:
            raise LocalStackError(
                "Other users can write into the data directory",
                detail=describe_path(self.path, info),
                hint=_CHOOSE_ANOTHER,
            )
        for _, name, entry in _entries(directory):
            if stat.S_ISLNK(entry.st_mode) or entry.st_uid not in self._owners():
                raise LocalStackError(
                    f"The data directory contains {name!r}, a symlink or a file of another user",
                    detail=describe_path(self.path, info),
                    hint=_CHOOSE_ANOTHER,
                )

    def _owners(self) -> set[int]:
        """Return the possible owners: the caller and, if that is root, the service user."""
        user = service_user()
        return {os.geteuid(), user.uid} if user else {os.geteuid()}

    def exists(self) -> bool:
        """Return whether the directory exists.

        Raises:
            LocalStackError: The path belongs to another user, is a symlink, or is not a directory.
        """
        try:
            info = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be read: {error.strerror}", detail=str(self.path)
            ) from error
        if stat.S_ISLNK(info.st_mode):
            raise LocalStackError(
                "The data directory is a symlink",
                detail=f"{self.path} -> {os.readlink(self.path)}",
                hint="Name the directory itself with --data-dir.",
            )
        if not stat.S_ISDIR(info.st_mode):
            raise LocalStackError(
                "The data directory is not a directory", detail=str(self.path), hint=_CHOOSE_ANOTHER
            )
        self._check_owner(info)
        return True

    def _check_owner(self, info: os.stat_result) -> None:
        if info.st_uid not in self._owners():
            raise LocalStackError(
                f"The data directory belongs to {user_name(info.st_uid)}, "
                f"and you are {user_name(os.geteuid())}",
                detail=describe_path(self.path, info),
                hint=_CHOOSE_ANOTHER,
            )

    def _open(self) -> int:
        """Open the directory, never through a symlink, and return the descriptor."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path, flags)

    def _check_identity(self, directory: int) -> None:
        """Check that a descriptor is of the directory that the path names."""
        opened, named = os.fstat(directory), self.path.lstat()
        if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
            raise self._replaced()

    def _replaced(self) -> LocalStackError:
        return LocalStackError(
            "The data directory was replaced during the start",
            detail=str(self.path),
            hint=_CHOOSE_ANOTHER,
        )

    def enter(self) -> None:
        """Change into the directory, as the user that runs the stack.

        `prepare` has checked the directories above. So after this, only root and this user can
        replace the directory, and the paths of its files are safe.

        Raises:
            LocalStackError: The directory does not belong to this user, or is open to others.
        """
        try:
            directory = self._open()
            try:
                info = os.fstat(directory)
                if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) != 0o700:
                    raise LocalStackError(
                        "The data directory belongs to another user or is open to others",
                        detail=describe_path(self.path, info),
                        hint=_CHOOSE_ANOTHER,
                    )
                self._check_identity(directory)
                os.fchdir(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be used: {error.strerror}",
                detail=str(self.path),
                hint=_CHOOSE_ANOTHER,
            ) from error

    def make(self) -> None:
        """Create the subdirectories, as the user that runs the stack.

        Raises:
            LocalStackError: One cannot be created, or exists and is not a directory.
        """
        try:
            for directory in (self.logs, self.storage):
                make_own_directory(directory)
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be used: {error.strerror}",
                detail=str(error.filename),
                hint=_CHOOSE_ANOTHER,
            ) from error

    async def lock(self) -> int:
        """Lock the directory for this process.

        The guard of a killed stack holds the lock until the programs have ended.

        Returns:
            The descriptor that holds the lock. The lock is free when all copies of it are closed.

        Raises:
            StackAlreadyRunning: Another stack holds the lock.
            LocalStackError: The programs of a killed stack do not end.
        """
        deadline = time.monotonic() + _CLEANUP_TIMEOUT
        while True:
            descriptor = self._try_lock()
            if descriptor is not None:
                return descriptor
            if self.daemon() is not None:
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

    def _try_lock(self) -> int | None:
        descriptor = open_own(self._lock, os.O_RDWR | os.O_CREAT, self._owner())
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `delete` may have deleted the file between the two calls.
            if os.fstat(descriptor).st_ino == self._lock.stat().st_ino:
                me = {"pid": os.getpid(), "started": psutil.Process().create_time()}
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(me).encode(), 0)
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
        return None

    def locked(self) -> bool:
        """Return whether a stack, or a program that outlived one, is running here."""
        if not self.exists():
            return False
        try:
            descriptor = open_own(self._lock, os.O_RDONLY, self._owner())
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _owner(self) -> int:
        """Return the owner of the directory, after a check that it is a possible one.

        Raises:
            LocalStackError: The directory belongs to another user.
            OSError: The directory cannot be read.
        """
        info = self.path.lstat()
        self._check_owner(info)
        return info.st_uid

    def daemon(self) -> psutil.Process | None:
        """Return the daemon that holds the lock; None if there is none or it was killed."""
        if not self.locked():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError):
            owner = json.loads(read_own(self._lock, self._owner()))
            return find_process(owner["pid"], owner["started"], self._owner())
        return None

    def write_programs(self, started: Mapping[int, float]) -> None:
        """Write the pids and start times of the running programs, for `programs`."""
        with contextlib.suppress(OSError):  # a full disk must not keep a stack from stopping
            write_own(self._programs, json.dumps(list(started.items())))

    def programs(self) -> list[psutil.Process]:
        """Return the recorded programs that still run, the last started first.

        If there is no daemon, they have outlived their stack, because its guard was killed too.
        """
        with contextlib.suppress(OSError, ValueError, TypeError, LocalStackError):
            recorded = json.loads(read_own(self._programs, self._owner()))
            found = (
                find_process(pid, started, self._owner()) for pid, started in reversed(recorded)
            )
            return [process for process in found if process is not None]
        return []

    def end_orphans(self) -> None:
        """End the programs that outlived their stack. The caller holds the lock."""
        for process in self.programs():
            end_orphan(process)
        with contextlib.suppress(OSError):
            self._programs.unlink()

    def postgres_version(self) -> int | None:
        """Return the major version of the Postgres that created the data; None without data."""
        with contextlib.suppress(OSError, ValueError, LocalStackError):
            return int(read_own(self.path / "postgres" / "PG_VERSION", self._owner()))
        return None

    def secrets(self) -> Secrets | None:
        """Return the stack's secrets; None before the first start, or after one of an old version.

        Secrets that are missing in a file of an older version are generated at each call.

        Raises:
            LocalStackError: The file cannot be read.
        """
        try:
            return Secrets.from_json(json.loads(read_own(self._secrets, self._owner())))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
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
        """Return the status that the running stack wrote; None if no stack is ready."""
        if self.daemon() is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            state: dict[str, Any] = json.loads(read_own(self._state, self._owner()))
            return state
        return None

    def clear_state(self) -> None:
        """Delete the status, at a stop and at a start after a stack was killed."""
        self._state.unlink(missing_ok=True)

    @contextlib.contextmanager
    def cleanup(self) -> Iterator[None]:
        """Lock the directory, and end the programs that outlived their stack.

        Raises:
            StackAlreadyRunning: A stack is running in it.
        """
        descriptor = self._try_lock()
        if descriptor is None:
            raise self._already_running()
        try:
            self.end_orphans()
            yield
        finally:
            os.close(descriptor)

    def delete(self) -> None:
        """Delete the files of a stack, and the directory if it contains no others.

        Raises:
            StackAlreadyRunning: A stack is running in it.
            LocalStackError: A file cannot be deleted.
        """
        if not self.exists():
            return
        expect_safe_path(self.path.parent)
        try:
            with self.cleanup():
                for name in _STACK_FILES:
                    entry = self.path / name
                    if entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry)
                    else:
                        entry.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self.path.rmdir()
        except OSError as error:
            raise LocalStackError(
                f"The data cannot be deleted: {error.strerror}", detail=str(error.filename)
            ) from error


def _entries(directory: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """Yield the entries of a data directory, each with the descriptor of its parent directory.

    The directory of Postgres is not entered, since the server has always owned its contents.
    """
    for path, names, files, parent in os.fwalk(".", dir_fd=directory):
        for name in (*names, *files):
            yield parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False)
        if path == "." and "postgres" in names:
            names.remove("postgres")
