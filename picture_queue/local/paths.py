"""The directories of the embedded stack, and the user that runs its programs.

No part of a stack runs as root. If root starts it, it runs as an unprivileged user, who must be
able to read the binaries and to reach the data. Root's default directories are therefore below
/var, not in a home directory, which is usually closed to others.
"""

import errno
import os
import pwd
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from picture_queue._files import describe_path
from picture_queue.errors import LocalStackError
from picture_queue.local.ownership import (
    expect_safe_path,
    make_safe_directory,
    set_directory_mode,
)

_APP = "picture-queue"


@dataclass(frozen=True)
class ServiceUser:
    """The unprivileged user that a stack runs as when root starts it."""

    name: str
    uid: int
    gid: int


def service_user() -> ServiceUser | None:
    """Return the user to switch to, or None when the caller is not root.

    Raises:
        LocalStackError: Root started the stack on a machine without an unprivileged user.
    """
    if os.geteuid() != 0:
        return None
    # Prefer an account that runs no other program.
    for name in (_APP, "postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServiceUser(name, entry.pw_uid, entry.pw_gid)
    raise LocalStackError(
        "A stack does not run as root, and there is no other user to run it",
        detail=f"Looked for {_APP}, postgres and nobody",
        hint=f"Create one (`useradd --system {_APP}`) or start the stack as an ordinary user.",
    )


def is_reachable(path: Path, user: ServiceUser | None) -> bool:
    """Return whether the user may read the path and enter every directory above it."""
    if user is None:
        return True
    resolved = path.resolve()
    try:
        return _has_permissions(resolved, user, 0o5 if resolved.is_dir() else 0o4) and all(
            _has_permissions(parent, user, 0o1) for parent in resolved.parents
        )
    except OSError:
        return False


def expect_passable(path: Path, user: ServiceUser) -> None:
    """Check that a user may enter a directory and all directories above it that exist.

    Raises:
        LocalStackError: One of these directories is closed to the user.
    """
    resolved = path.resolve()
    for directory in (*reversed(resolved.parents), resolved):
        if directory.exists() and not _has_permissions(directory, user, 0o1):
            raise LocalStackError(
                f"User {user.name}, who runs the stack for root, cannot enter {directory}",
                detail=describe_path(directory, directory.stat()),
                hint="Choose a data directory below one that every user may enter, such as "
                "/var/lib, or start the stack as an ordinary user.",
            )


def _has_permissions(path: Path, user: ServiceUser, bits: int) -> bool:
    """Return whether a mode gives a user permissions: 4 to read, 2 to write, 1 to enter."""
    info = path.stat()
    shift = 6 if info.st_uid == user.uid else 3 if info.st_gid == user.gid else 0
    return (stat.S_IMODE(info.st_mode) >> shift) & bits == bits


def default_data_dir() -> Path:
    """Return the data directory that `picture-queue local` uses without --data-dir."""
    if os.geteuid() == 0 and not os.environ.get("XDG_DATA_HOME"):
        return Path("/var/lib") / _APP / "local"
    return platformdirs.user_data_path(_APP) / "local"


def cache_dir() -> Path:
    """Return the existing, writable directory for the programs that we download or copy.

    Raises:
        LocalStackError: No such directory can be created.
    """
    if os.geteuid() == 0 and not os.environ.get("XDG_CACHE_HOME"):
        preferred = Path("/var/cache") / _APP
    else:
        preferred = platformdirs.user_cache_path(_APP)
    # The home directory of a system account often does not exist.
    fallback = Path(tempfile.gettempdir()) / f"{_APP}-{os.geteuid()}"
    reasons = []
    for path in (preferred, fallback):
        try:
            _make_cache(path)
        except (LocalStackError, OSError) as error:
            reasons.append(str(error))
        else:
            return path
    raise LocalStackError(
        "There is no directory in which programs can be stored",
        detail="; ".join(reasons),
        hint="Set XDG_CACHE_HOME to your own directory.",
    )


def _make_cache(path: Path) -> None:
    """Create the cache, from which programs are run, or check an existing one.

    Raises:
        LocalStackError: Other users can write programs there.
        OSError: The cache cannot be created or written.
    """
    # The service user reads root's cache.
    mode = 0o755 if os.geteuid() == 0 else 0o700
    # The new directory is writable only for its owner from the start: an entry that another user
    # adds before the mode is set would stay there.
    make_safe_directory(path, mode)
    expect_safe_path(path)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise LocalStackError(
            "Other users can write into the cache of programs", detail=describe_path(path, info)
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    set_directory_mode(path, mode)
