"""Files and directories in places that other users of the machine may be able to write."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Self, TextIO

if sys.platform != "win32":
    import grp
    import pwd


_MAX_LINKS = 40  # the limit of Linux


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
    owners = {0, os.geteuid(), os.stat("/").st_uid}
    # In a user namespace, the kernel shows all users outside of it under one id. This may also be
    # the id of the caller.
    outsiders = _find_id_of_outsiders()
    if outsiders is not None and not (outsiders == os.geteuid() and _is_in_namespace(outsiders)):
        owners.discard(outsiders)
    return owners


def _find_id_of_outsiders() -> int | None:
    """Return the user id that stands for all users outside the user namespace; None if unknown."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):  # a system other than Linux, or no /proc
        return 65534 if sys.platform == "linux" else None


def _is_in_namespace(uid: int) -> bool:
    """Return whether a user id belongs to a user of the caller's user namespace."""
    try:
        ranges = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:  # the kernel has no user namespaces
        return True
    parsed = (map(int, line.split()) for line in ranges)
    return any(first <= uid < first + count for first, _, count in parsed)


def is_writable_by_others(path: Path, info: os.stat_result) -> bool:
    """Return whether users besides root and the caller can replace entries of a directory."""
    if stat.S_ISLNK(info.st_mode) or info.st_mode & stat.S_ISVTX:
        # A symlink has no permissions of its own. In a sticky directory (S_ISVTX), users can
        # replace only their own entries.
        return False
    return bool(info.st_mode & 0o002) or (
        bool(info.st_mode & 0o020) and (_has_acl(path) or not _is_private_group(info.st_gid))
    )


class Entry(NamedTuple):
    """A directory or a symlink, with its owner and mode."""

    path: Path
    info: os.stat_result

    def __str__(self) -> str:
        return describe_path(self.path, self.info)


def find_replaceable(path: Path, safe_directories: Collection[Path] = ()) -> Entry | None:
    """Return the first directory of a path that another user can replace; None if there is none.

    Symlinks are checked too, with the directories of their targets. The check ends at the first
    part that does not exist. After the check, only root and the caller can replace these parts.

    Args:
        path: The path.
        safe_directories: Directories without symlinks in their paths. They, and everything below
            them, are not checked.

    Raises:
        OSError: A part is not a directory, cannot be read, or the path has too many symlinks.
    """
    trusted = trusted_owners()
    directory, pending, link_count = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    while pending:
        part = pending.pop()
        if part == "..":
            directory = directory.parent
            continue
        entry = directory / part
        try:
            info = entry.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(info.st_mode) and not stat.S_ISLNK(info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(entry))
        is_safe = any(entry.is_relative_to(safe) for safe in safe_directories)
        if not is_safe and (info.st_uid not in trusted or is_writable_by_others(entry, info)):
            return Entry(entry, info)
        if not stat.S_ISLNK(info.st_mode):
            directory = entry
            continue
        link_count += 1
        if link_count > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.readlink(entry))
        directory = Path("/") if target.is_absolute() else directory
        pending += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return None


class OpenDirectory:
    """An open directory, whose entries are used relative to its descriptor.

    Another user may replace the path of a directory, but not an open descriptor. Windows has no
    such descriptors, so there the entries are used by their paths.

    Args:
        path: The path.
        parent: The open directory that contains it; a symlink is then not followed.
        follow_symlink: Whether the path may be a symlink, if there is no parent.

    Raises:
        OSError: The path is not a directory, or cannot be opened.
    """

    def __init__(
        self, path: Path, parent: "OpenDirectory | None" = None, *, follow_symlink: bool = True
    ) -> None:
        self.path = path
        self.descriptor: int | None = None
        if os.open in os.supports_dir_fd:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            if parent is not None or not follow_symlink:
                flags |= os.O_NOFOLLOW
            if parent is None:
                self.descriptor = os.open(path, flags)
            else:
                self.descriptor = os.open(path.name, flags, dir_fd=parent.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor is not None:
            os.close(self.descriptor)

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            OSError: The system has no descriptors of directories.
        """
        if self.descriptor is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(self.path))
        return self.descriptor

    def info(self) -> os.stat_result:
        """Return the owner and mode of the directory itself."""
        return os.stat(self.path if self.descriptor is None else self.descriptor)

    def is_at_path(self) -> bool:
        """Return whether the path still leads to this directory."""
        return self.descriptor is None or os.path.samestat(
            os.fstat(self.descriptor), self.path.stat()
        )

    def _name(self, name: str) -> str:
        return name if self.descriptor is not None else str(self.path / name)

    def names(self) -> list[str]:
        """Return the names of the entries."""
        return os.listdir(self.path if self.descriptor is None else self.descriptor)

    def stat(self, name: str, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the type and size of an entry, or of the target of a symlink."""
        return os.stat(self._name(name), dir_fd=self.descriptor, follow_symlinks=follow_symlinks)

    def open_file(self, name: str) -> TextIO:
        """Open a file for reading; characters that are not UTF-8 are replaced."""
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self._name(name), flags, dir_fd=self.descriptor)
        return open(descriptor, encoding="utf-8", errors="replace")

    def create_file(self, name: str) -> TextIO:
        """Create a file and open it for writing; a symlink is not followed."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self._name(name), flags, 0o666, dir_fd=self.descriptor)
        return open(descriptor, "w", encoding="utf-8")

    def move_file(self, name: str, target: "OpenDirectory") -> None:
        """Move a file into another directory."""
        os.rename(
            self._name(name),
            target._name(name),
            src_dir_fd=self.descriptor,
            dst_dir_fd=target.descriptor,
        )

    def delete_file(self, name: str) -> None:
        """Delete a file."""
        os.unlink(self._name(name), dir_fd=self.descriptor)

    def delete_entry(self, name: str) -> None:
        """Delete a file, a symlink or a directory with its contents; a symlink is not followed."""
        if stat.S_ISDIR(self.stat(name, follow_symlinks=False).st_mode):
            shutil.rmtree(self._name(name), dir_fd=self.descriptor)
        else:
            self.delete_file(name)

    def make_directory(self, name: str) -> None:
        """Create a directory."""
        os.mkdir(self._name(name), dir_fd=self.descriptor)

    def delete_directory(self, name: str) -> None:
        """Delete an empty directory."""
        os.rmdir(self._name(name), dir_fd=self.descriptor)


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
