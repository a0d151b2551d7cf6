"""Checks that no other user can replace or read the files of a stack.

The stack runs programs from its cache, and stores secrets and pictures in its data directory.
Another user of the machine may have created these directories before, with symlinks in them or in
the directories above. The rules are the same as for sshd's option StrictModes.
"""

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import IO

from picture_queue._files import OpenDirectory, describe_path, find_replaceable, user_name
from picture_queue.errors import LocalStackError


def expect_safe_path(path: Path, safe_directories: Collection[Path] = ()) -> None:
    """Check that only root and the caller can replace a directory of a path.

    Args:
        path: The path.
        safe_directories: Directories that are not checked; see `find_replaceable`.

    Raises:
        LocalStackError: Another user can replace a directory, or the path has too many symlinks.
        OSError: A part is not a directory, or cannot be read.
    """
    try:
        replaceable = find_replaceable(path, safe_directories)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise LocalStackError(f"{path} has too many symlinks") from error
    if replaceable is not None:
        raise LocalStackError(
            f"Other users can replace {replaceable.path}",
            detail=str(replaceable),
            hint="Choose a directory below one that only you and root can write.",
        )


def make_safe_directory(
    path: Path, mode: int = 0o755, safe_directories: Collection[Path] = ()
) -> None:
    """Create a directory with a mode, regardless of the umask, and its parents with mode 0755.

    Each parent is checked before an entry is created in it. Otherwise another user could create a
    missing parent first, as a directory or a symlink, and replace its entries later. If the
    directory exists, it keeps its owner and mode, and is not checked.

    Args:
        path: The path of the directory.
        mode: The mode of a new directory; others must not be able to write into it.
        safe_directories: Directories that are not checked; see `find_replaceable`.

    Raises:
        LocalStackError: Another user can replace a parent or the new directory.
        OSError: The directory cannot be created.
    """
    path = path.absolute()
    if path.is_dir():
        return
    make_safe_directory(path.parent, safe_directories=safe_directories)
    expect_safe_path(path.parent, safe_directories)
    # O_PATH (Linux) opens a directory that the caller may enter, but not list.
    access = getattr(os, "O_PATH", os.O_RDONLY)
    parent = os.open(path.parent, access | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mkdir(path.name, mode, dir_fd=parent)
        set_directory_mode(path, mode, parent)
    except FileExistsError:
        # Another process has just created the directory, so do not change its mode.
        if not path.is_dir():
            raise
    finally:
        os.close(parent)


def set_directory_mode(path: Path, mode: int, parent: int | None = None) -> None:
    """Set the mode of a directory of the caller, never through a symlink.

    Args:
        path: The path of the directory.
        mode: The mode.
        parent: A file descriptor of the directory's parent; None: use the whole path.

    Raises:
        LocalStackError: The directory belongs to another user.
        OSError: The path is not a directory, or its mode cannot be set.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(path if parent is None else path.name, flags, dir_fd=parent)
    try:
        info = os.fstat(directory)
        if info.st_uid != os.geteuid():
            raise LocalStackError(
                f"{path} belongs to {user_name(info.st_uid)}, "
                f"and you are {user_name(os.geteuid())}",
                detail=describe_path(path, info),
            )
        os.fchmod(directory, mode)
    finally:
        os.close(directory)


def open_own(
    path: Path, flags: int, owner: int | None = None, parent: OpenDirectory | None = None
) -> int:
    """Open a regular file that belongs to the stack, never through a symlink.

    Args:
        path: The path of the file; its directory has been checked.
        flags: The flags for `os.open`. A new file gets mode 0600.
        owner: A second user that the file may belong to, besides the caller.
        parent: The open directory of the file; None: use the whole path.

    Returns:
        The descriptor, which child processes do not inherit.

    Raises:
        LocalStackError: The path is not a regular file, or belongs to another user.
        OSError: The file cannot be opened.
    """
    # O_NONBLOCK: opening a FIFO would block until another process opens its other end.
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    directory = parent.fileno() if parent else None
    try:
        descriptor = os.open(
            path if parent is None else path.name, flags | safe, 0o600, dir_fd=directory
        )
    except OSError as error:
        if path.is_symlink():
            raise LocalStackError(f"{path} is a symlink, not a file of this stack") from error
        raise
    info = os.fstat(descriptor)
    # A file with several names may be a hard link of another user to one of our files.
    if (
        not stat.S_ISREG(info.st_mode)
        or info.st_nlink > 1
        or info.st_uid not in {os.geteuid(), owner}
    ):
        os.close(descriptor)
        raise LocalStackError(
            f"{path} is not a file of this stack", detail=describe_path(path, info)
        )
    return descriptor


def open_log(path: Path) -> IO[bytes]:
    """Open a log file for appending.

    Raises:
        LocalStackError: The path is not a regular file, or belongs to another user.
        OSError: The file cannot be opened.
    """
    return open(open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def read_own(path: Path, owner: int | None = None, parent: OpenDirectory | None = None) -> str:
    """Read a file that belongs to the stack; see `open_own`."""
    with open(open_own(path, os.O_RDONLY, owner, parent), encoding="utf-8") as file:
        return file.read()


def write_own(path: Path, text: str) -> None:
    """Write a file atomically, with mode 0600."""
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)


def make_own_directory(path: Path) -> None:
    """Create a directory with mode 0700, or check the owner of an existing one.

    Raises:
        LocalStackError: The path is not a directory, or belongs to another user.
        OSError: The directory cannot be created.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            kind = "a symlink" if stat.S_ISLNK(info.st_mode) else "not a directory of this stack"
            raise LocalStackError(f"{path} is {kind}", detail=describe_path(path, info)) from None
