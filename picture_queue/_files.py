"""Files and directories in places that other users of the machine may be able to write."""

import contextlib
import errno
import os
import secrets
import stat
import sys
from pathlib import Path

if sys.platform != "win32":
    import grp
    import pwd


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically. An existing file is replaced, and its permissions are kept.

    The content is written to a temporary file, which is renamed when it is complete. So a symlink
    is never followed, even if another user creates one in the meantime, and a failed write leaves
    the existing file as it is.

    Args:
        path: The path of the file.
        content: The content.

    Raises:
        OSError: The path exists and is not a regular file, or the file cannot be written.
    """
    mode = 0o666
    with contextlib.suppress(FileNotFoundError):
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            kind = "a symlink" if stat.S_ISLNK(info.st_mode) else "not a regular file"
            raise OSError(errno.EEXIST, f"is {kind}", str(path))
        mode = info.st_mode & 0o666
    unfinished = path.with_name(f".picture-queue-{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(unfinished, flags | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def describe_path(path: Path, info: os.stat_result) -> str:
    """Return a path with its owner and permissions, for an error message."""
    return f"{path} (owner {user_name(info.st_uid)}, mode {stat.S_IMODE(info.st_mode):04o})"


def user_name(uid: int) -> str:
    """Return the name of a user, or the user id if the user has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def trusted_owners() -> set[int]:
    """Return the ids of the users who may own a directory that the caller writes to."""
    # In a container, root may have another user id than 0. Root then owns the directory /.
    return {0, os.geteuid(), os.stat("/").st_uid}


def is_writable_by_others(path: Path, info: os.stat_result) -> bool:
    """Return whether users besides root and the caller can replace entries of a directory."""
    if stat.S_ISLNK(info.st_mode) or info.st_mode & stat.S_ISVTX:
        # A symlink has no permissions of its own. In a sticky directory (S_ISVTX), users can
        # replace only their own entries.
        return False
    return bool(info.st_mode & 0o002) or (
        bool(info.st_mode & 0o020) and (_has_acl(path) or not _is_private_group(info.st_gid))
    )


def _has_acl(path: Path) -> bool:
    """Return whether a directory has an access ACL; False on systems other than Linux.

    With an ACL, the group bits of the mode do not show the rights of the owning group. They are
    then the mask: the rights that any user or group of the ACL can have at most.
    """
    if sys.platform != "linux":
        return False
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _is_private_group(gid: int) -> bool:
    """Return whether the caller is the only member of a group, as is usual with umask 002.

    The system usually does not list users of a directory service, such as LDAP. So a group without
    listed members counts as private only if it has the name of the caller.
    """
    if gid == 0:
        return True
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    members = {entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid}
    members.update(group.gr_mem)
    return (members or {group.gr_name}) == {user_name(os.geteuid())}
