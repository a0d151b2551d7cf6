"""A stack's data directory: its files, its lock, and what the running stack says about itself."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import psutil

from picture_queue.errors import LocalStackError, StackAlreadyRunning
from picture_queue.local.paths import default_data_dir, make_directory
from picture_queue.local.processes import runs

_POLL = 0.02
_CLEANUP_TIMEOUT = 30.0  # seconds a killed stack's guard may take
_CLOCK_SLACK = 2.0  # seconds two readings of one process's start may differ
# Everything a stack writes. `--data-dir` may name a directory with other people's files.
_OURS = ("postgres", "platform.sha256", "storage", "logs", "state.json", "lock")


class DataDir:
    """One data directory.

    Args:
        path: Where; made when a stack starts in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.storage = self.path / "storage"
        self._lock = self.path / "lock"
        self._state = self.path / "state.json"

    def log(self, name: str) -> Path:
        """Returns the log file of one program."""
        return self.logs / f"{name}.log"

    def command(self, verb: str) -> str:
        """Returns the command that does something with the stack in this directory, for a hint."""
        option = "" if self.path == default_data_dir() else f" --data-dir {self.path}"
        return f"`picture-queue local {verb}{option}`"

    def make(self) -> None:
        """Makes the directories.

        Raises:
            LocalStackError: They cannot be made.
        """
        try:
            make_directory(self.path)
            for directory in (self.logs, self.storage):
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be made: {error.strerror}",
                detail=str(error.filename),
                hint="Choose another with --data-dir.",
            ) from error

    async def lock(self) -> int:
        """Takes the directory for this process.

        Waits for the guard of a stack that was killed: it holds the lock until nothing is left.

        Returns:
            The descriptor that holds the lock; it is free when all copies of it are closed.

        Raises:
            StackAlreadyRunning: Another stack has it.
            LocalStackError: A killed stack's programs do not end.
        """
        deadline = time.monotonic() + _CLEANUP_TIMEOUT
        while True:
            descriptor = self._try_lock()
            if descriptor is not None:
                return descriptor
            if self.daemon() is not None:
                raise StackAlreadyRunning(
                    "A stack is already running in this data directory",
                    detail=str(self.path),
                    hint=f"See it with {self.command('status')}, "
                    f"or stop it with {self.command('stop')}.",
                )
            if time.monotonic() > deadline:
                raise LocalStackError(
                    "The programs of an earlier stack do not end", detail=str(self.path)
                )
            await asyncio.sleep(_POLL)

    def _try_lock(self) -> int | None:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `delete` may have taken the file away between the two calls.
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
        """Tells whether a stack, or what is left of one, is running here."""
        try:
            with self._lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def daemon(self) -> psutil.Process | None:
        """Returns the daemon that holds the lock; None when there is none or it was killed."""
        if not self.locked():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            owner = json.loads(self._lock.read_text())
            process = psutil.Process(owner["pid"])
            same = abs(process.create_time() - owner["started"]) < _CLOCK_SLACK
            return process if same and runs(process) else None
        return None

    def write_state(self, state: dict[str, Any]) -> None:
        """Tells other processes about the running stack; for the owner's eyes only."""
        scratch = self._state.with_suffix(".new")
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(state, file, indent=2)
        scratch.replace(self._state)

    def read_state(self) -> dict[str, Any] | None:
        """Returns what the running stack wrote; None when none is ready here."""
        if self.daemon() is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            state: dict[str, Any] = json.loads(self._state.read_text())
            return state
        return None

    def clear_state(self) -> None:
        """Takes the state away; done at a stop, and at a start for a stack that was killed."""
        self._state.unlink(missing_ok=True)

    def delete(self) -> None:
        """Deletes what stacks have written here, and the directory if nothing else is in it.

        Raises:
            StackAlreadyRunning: A stack is running here.
            LocalStackError: Something cannot be deleted.
        """
        if not self.path.exists():
            return
        descriptor = self._try_lock()
        if descriptor is None:
            raise StackAlreadyRunning(
                "A stack is running in this data directory",
                detail=str(self.path),
                hint=f"Stop it with {self.command('stop')}.",
            )
        try:
            for name in _OURS:
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
        finally:
            os.close(descriptor)
