"""Checks of the directory in which a stack stores its files: owner, mode and contents.

The directory belongs to the user that runs the stack, and has mode 0700. Root gives the directory
to the service user before any program of the stack runs.
"""

import contextlib
import errno
import json
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Set
from pathlib import Path

from picture_queue._files import OpenDirectory, describe_path, user_name
from picture_queue.errors import LocalStackError
from picture_queue.local.ownership import expect_safe_path, make_safe_directory, open_own
from picture_queue.local.paths import ServiceUser, expect_passable, service_user

CHOOSE_ANOTHER_HINT = "Choose another with --data-dir."
# The file that a start writes first into a new directory. Without it, files with the names of a
# stack's files may be somebody's own, and are not used or deleted.
MARKER = "picture-queue-stack"
# Stacks of versions without the marker have this file, once their first start has succeeded.
PLATFORM_DIGEST = "platform.sha256"
LOCK = "lock"
_MAX_LOCK_SIZE = 1000  # bytes


class CheckedDirectory(ABC):
    """A directory that is used only after checks that no other user can read or replace its files.

    Args:
        path: The path; `prepare` creates the directory.
        file_names: The names of all files and directories that a stack creates in the directory.
    """

    def __init__(self, path: Path, file_names: Set[str]) -> None:
        self.path = path.expanduser().absolute()
        self._file_names = file_names

    @abstractmethod
    def _expect_stopped(self) -> None:
        """Check that no stack runs in the directory.

        Raises:
            StackAlreadyRunning: A stack runs in the directory.
        """

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
            with self._open() as directory:
                self._check_identity(directory)
                self._close_and_chown(directory, user)
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be made: {error.strerror}",
                detail=str(error.filename or self.path),
                hint=CHOOSE_ANOTHER_HINT,
            ) from error

    def _close_and_chown(self, directory: OpenDirectory, user: ServiceUser | None) -> None:
        info = directory.info()
        self._check_owner(info)
        owner = user.uid if user else os.geteuid()
        if info.st_uid == owner and stat.S_IMODE(info.st_mode) == 0o700:
            self._check_unmarked(directory)
            return
        self._expect_stopped()  # a stack of an older version may run in a directory open to others
        self._check_contents(directory, info)
        self._check_unmarked(directory)
        os.fchmod(directory.fileno(), 0o700)
        # From here on, other users cannot add files. Check the files that they added before.
        self._check_contents(directory, info)
        if user and info.st_uid != owner:
            # An older version, started by root, left files of root in the directory.
            for parent, name, _ in _walk(directory):
                os.chown(name, user.uid, user.gid, dir_fd=parent, follow_symlinks=False)
            os.fchown(directory.fileno(), user.uid, user.gid)

    def _check_contents(self, directory: OpenDirectory, info: os.stat_result) -> None:
        """Check that the directory contains only files of a stack, which only its owner wrote.

        Args:
            directory: The open directory.
            info: The owner and mode of the directory before it was closed to others.
        """
        names = directory.names()
        if not self._file_names >= set(names):
            raise LocalStackError(
                "The data directory contains other files, and a stack would close it to others",
                detail=describe_path(self.path, info),
                hint="Choose an empty directory or a new one with --data-dir.",
            )
        if names:
            self._check_closed(info)
        for _, name, entry in _walk(directory):
            if stat.S_ISLNK(entry.st_mode) or entry.st_uid not in self._accepted_owners():
                raise LocalStackError(
                    f"The data directory contains {name!r}, a symlink or a file of another user",
                    detail=describe_path(self.path, info),
                    hint=CHOOSE_ANOTHER_HINT,
                )

    def _check_closed(self, info: os.stat_result) -> None:
        """Check the mode of the directory: other users may not add or replace files in it."""
        if info.st_mode & 0o022:
            raise LocalStackError(
                "Other users can write into the data directory",
                detail=describe_path(self.path, info),
                hint=CHOOSE_ANOTHER_HINT,
            )

    def _is_marked(self, directory: OpenDirectory) -> bool:
        """Return whether a start of a stack has used the directory.

        A symlink, a hard link or a file of another user does not count: another user may have
        created it.
        """
        return any(
            self._is_own_file(directory, name) for name in (MARKER, PLATFORM_DIGEST)
        ) or self._has_failed_start(directory)

    def _has_failed_start(self, directory: OpenDirectory) -> bool:
        """Return whether the first start of a version without the marker failed in the directory.

        Such a start closed the directory to others, and wrote its process into the lock file.
        """
        with contextlib.suppress(OSError, ValueError, RecursionError, LocalStackError):
            info = directory.info()
            self._check_owner(info)
            if stat.S_IMODE(info.st_mode) != 0o700:
                return False
            if not self._file_names >= set(directory.names()):
                return False
            with open(self._open_file(directory, LOCK, os.O_RDONLY), "rb") as file:
                holder = json.loads(file.read(_MAX_LOCK_SIZE))
            return (
                isinstance(holder, dict)
                and holder.keys() == {"pid", "started"}
                and all(type(value) in (int, float) for value in holder.values())
            )
        return False

    def _is_own_file(self, directory: OpenDirectory, name: str) -> bool:
        try:
            info = directory.stat(name, follow_symlinks=False)
        except OSError:
            return False
        return (
            stat.S_ISREG(info.st_mode)
            and info.st_nlink == 1
            and info.st_uid in self._accepted_owners()
        )

    def mark(self) -> None:
        """Mark the directory as one of a stack, before the first other file is created in it.

        Raises:
            LocalStackError: The directory contains files with the names of a stack's files, and no
                stack has created them; or the marker cannot be written.
        """
        try:
            with self._open() as directory:
                self._check_unmarked(directory)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(MARKER, flags, 0o600, dir_fd=directory.fileno()))
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be used: {error.strerror}",
                detail=str(self.path),
                hint=CHOOSE_ANOTHER_HINT,
            ) from error

    def _check_unmarked(self, directory: OpenDirectory) -> None:
        """Check that a directory without marker has no contents that a stack would replace."""
        if self._is_marked(directory):
            return
        for name in sorted(self._file_names & set(directory.names())):
            # A start in another process may have just created the marker and this file.
            is_foreign = name in (MARKER, PLATFORM_DIGEST) or _has_content(directory, name)
            if is_foreign and not self._is_marked(directory):
                raise LocalStackError(
                    f"The data directory contains {name!r}, which no stack has created",
                    detail=str(self.path / name),
                    hint="Choose an empty directory or a new one with --data-dir.",
                )

    def _accepted_owners(self) -> set[int]:
        """Return the accepted owners: the caller and, if the caller is root, the service user."""
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
                "The data directory is not a directory",
                detail=str(self.path),
                hint=CHOOSE_ANOTHER_HINT,
            )
        self._check_owner(info)
        return True

    def _check_owner(self, info: os.stat_result) -> None:
        if info.st_uid not in self._accepted_owners():
            raise LocalStackError(
                f"The data directory belongs to {user_name(info.st_uid)}, "
                f"and you are {user_name(os.geteuid())}",
                detail=describe_path(self.path, info),
                hint=CHOOSE_ANOTHER_HINT,
            )

    def _open(self) -> OpenDirectory:
        """Open the directory, never through a symlink."""
        return OpenDirectory(self.path, follow_symlink=False)

    def _open_checked(self) -> OpenDirectory:
        """Open the directory, and check its owner.

        The path is used only here. If the parent is sticky, the owner of the directory, who may be
        the service user, can replace the directory later by a symlink to a directory of root.

        Raises:
            LocalStackError: The path belongs to another user, is a symlink, or is not a directory.
            OSError: The directory does not exist, or cannot be opened.
        """
        if not self.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        try:
            directory = self._open()
        except NotADirectoryError as error:  # also for a symlink
            raise self._replaced() from error
        try:
            self._check_owner(directory.info())
        except BaseException:
            directory.close()
            raise
        return directory

    def _open_file(self, directory: OpenDirectory, name: str, flags: int) -> int:
        """Open a file of the caller or of the directory's owner, and return the descriptor."""
        return open_own(self.path / name, flags, directory.info().st_uid, directory)

    def _check_identity(self, directory: OpenDirectory) -> None:
        """Check that an open directory is still the directory at the path."""
        if not os.path.samestat(directory.info(), self.path.lstat()):
            raise self._replaced()

    def _replaced(self) -> LocalStackError:
        return LocalStackError(
            "The data directory was replaced while the command used it",
            detail=str(self.path),
            hint=CHOOSE_ANOTHER_HINT,
        )

    def enter(self) -> None:
        """Change into the directory, as the user that runs the stack.

        `prepare` has checked the directories above. So from now on, only root and this user can
        replace the directory, and the paths of its files are safe.

        Raises:
            LocalStackError: The directory does not belong to this user, or is open to others.
        """
        try:
            with self._open() as directory:
                info = directory.info()
                if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) != 0o700:
                    raise LocalStackError(
                        "The data directory belongs to another user or is open to others",
                        detail=describe_path(self.path, info),
                        hint=CHOOSE_ANOTHER_HINT,
                    )
                self._check_identity(directory)
                os.fchdir(directory.fileno())
        except OSError as error:
            raise LocalStackError(
                f"The data directory cannot be used: {error.strerror}",
                detail=str(self.path),
                hint=CHOOSE_ANOTHER_HINT,
            ) from error


def _has_content(directory: OpenDirectory, name: str) -> bool:
    """Return whether an entry of a directory is neither an empty file nor an empty directory."""
    info = directory.stat(name, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        return not stat.S_ISREG(info.st_mode) or info.st_size > 0
    with OpenDirectory(directory.path / name, directory) as entry:
        return bool(entry.names())


def _walk(directory: OpenDirectory) -> Iterator[tuple[int, str, os.stat_result]]:
    """Yield each entry below a directory: descriptor of its parent, name, and owner and mode.

    The directory of Postgres is not entered, since the server has always owned its contents.
    """
    for path, names, files, parent in os.fwalk(".", dir_fd=directory.fileno()):
        for name in (*names, *files):
            yield parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False)
        if path == "." and "postgres" in names:
            names.remove("postgres")
