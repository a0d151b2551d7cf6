"""Checks that nobody else can exchange or read the files of a stack.

The stack runs programs from its cache, and keeps secrets and pictures in its data directory. Other
users of the machine may have prepared either: a directory of theirs with symlinks in it, or a
symlink above it. The rules are those of sshd's StrictModes.
"""

import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import IO

from picture_queue.errors import LocalStackError

_MAX_LINKS = 40  # as the kernel


def describe(path: Path, info: os.stat_result) -> str:
    """Return a path with its owner and mode, for an error message."""
    return f"{path} (owner {user_name(info.st_uid)}, mode {stat.S_IMODE(info.st_mode):04o})"


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def expect_safe_path(path: Path) -> None:
    """Check that only root and the caller can replace a directory on the way to a path.

    Symlinks count as parts of the way. The check ends at the first part that does not exist. No
    part that passed can be exchanged later, because whoever could is trusted.

    Args:
        path: An absolute path.

    Raises:
        LocalStackError: Somebody else can, or a part is no directory.
        OSError: A part cannot be looked at.
    """
    # In a container the owner of / may be root by another number.
    trusted = {0, os.geteuid(), os.stat("/").st_uid}
    place, pending, links = Path("/"), list(reversed(path.parts[1:])), 0
    while pending:
        part = pending.pop()
        if part == "..":
            place = place.parent
            continue
        entry = place / part
        try:
            info = entry.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(info.st_mode) and not stat.S_ISLNK(info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(entry))
        if info.st_uid not in trusted or _is_writable_by_others(info):
            raise LocalStackError(
                f"Other users can exchange {entry}",
                detail=describe(entry, info),
                hint="Choose a directory below one that only you and root can write.",
            )
        if not stat.S_ISLNK(info.st_mode):
            place = entry
            continue
        links += 1
        if links > _MAX_LINKS:
            raise LocalStackError(f"{path} has too many symlinks", detail=str(entry))
        target = Path(os.readlink(entry))
        place = Path("/") if target.is_absolute() else place
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _is_writable_by_others(info: os.stat_result) -> bool:
    if stat.S_ISLNK(info.st_mode) or info.st_mode & stat.S_ISVTX:
        return False  # a symlink has no mode; a sticky directory protects each owner's entries
    return bool(info.st_mode & 0o002) or (
        bool(info.st_mode & 0o020) and not _is_private_group(info.st_gid)
    )


def _is_private_group(gid: int) -> bool:
    """Tell whether a group has no member but the caller, as where the umask is 002."""
    if gid == 0:
        return True
    try:
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        members = set()
    members |= {entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid}
    return members <= {user_name(os.geteuid())}


def open_own(path: Path, flags: int, owner: int | None = None) -> int:
    """Open a regular file that belongs to the stack, never through a symlink.

    Args:
        path: Where; its directory is checked already.
        flags: For `os.open`. A new file is for its owner's eyes only.
        owner: Who it may belong to beside the caller.

    Returns:
        The descriptor; it is not inherited.

    Raises:
        LocalStackError: Something else is there.
        OSError: It cannot be opened.
    """
    # O_NONBLOCK: a FIFO would wait for its other end.
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags | safe, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise LocalStackError(f"{path} is a symlink, where a file of the stack is") from error
        raise
    info = os.fstat(descriptor)
    # A second name may be a link that somebody made to a file of ours elsewhere.
    if (
        not stat.S_ISREG(info.st_mode)
        or info.st_nlink > 1
        or info.st_uid not in {os.geteuid(), owner}
    ):
        os.close(descriptor)
        raise LocalStackError(f"{path} is not a file of this stack", detail=describe(path, info))
    return descriptor


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to.

    Raises:
        LocalStackError: Something else is there.
        OSError: It cannot be opened.
    """
    return open(open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab")


def read_own(path: Path, owner: int | None = None) -> str:
    """Read a file that belongs to the stack; see `open_own`."""
    with open(open_own(path, os.O_RDONLY, owner), encoding="utf-8") as file:
        return file.read()


def write_own(path: Path, text: str) -> None:
    """Write a file as a whole, for its owner's eyes only."""
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)


def make_own_directory(path: Path) -> None:
    """Make a directory that is closed to others, or check the one that is there.

    Raises:
        LocalStackError: Something else is there, or it belongs to somebody else.
        OSError: It cannot be made.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            what = "a symlink" if stat.S_ISLNK(info.st_mode) else "not a directory of this stack"
            raise LocalStackError(f"{path} is {what}", detail=describe(path, info)) from None
