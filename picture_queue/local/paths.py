"""Where the embedded stack keeps its files, and the user its programs run as.

Postgres refuses to run as root. Started by root, the stack's programs therefore run as an
unprivileged user, who has to reach both the binaries and the data: `reachable` tells, and the
defaults for root lie under /var instead of a home that is usually closed to others.
"""

import os
import pwd
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from picture_queue.errors import LocalStackError

_APP = "picture-queue"


@dataclass(frozen=True)
class ServiceUser:
    """The unprivileged user that runs the programs when root starts the stack."""

    name: str
    uid: int
    gid: int


def service_user() -> ServiceUser | None:
    """Returns the user to switch to, or None when the caller is not root.

    Raises:
        LocalStackError: Root started the stack on a machine without an unprivileged user.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServiceUser(name, entry.pw_uid, entry.pw_gid)
    raise LocalStackError(
        "Postgres refuses to run as root, and there is no user `postgres` or `nobody` to run it",
        hint="Create one (`useradd --system postgres`) or start the stack as an ordinary user.",
    )


def reachable(path: Path, user: ServiceUser | None) -> bool:
    """Tells whether the user may read the path and pass every directory above it."""
    if user is None:
        return True
    resolved = path.resolve()
    try:
        return _allowed(resolved, user, 0o5 if resolved.is_dir() else 0o4) and all(
            _allowed(parent, user, 0o1) for parent in resolved.parents
        )
    except OSError:
        return False


def _allowed(path: Path, user: ServiceUser, bits: int) -> bool:
    info = path.stat()
    shift = 6 if info.st_uid == user.uid else 3 if info.st_gid == user.gid else 0
    return (stat.S_IMODE(info.st_mode) >> shift) & bits == bits


def default_data_dir() -> Path:
    """Returns the data directory `picture-queue local` uses when none is given."""
    if os.geteuid() == 0 and not os.environ.get("XDG_DATA_HOME"):
        return Path("/var/lib") / _APP / "local"
    return platformdirs.user_data_path(_APP) / "local"


def cache_dir() -> Path:
    """Returns the directory for programs fetched or copied by us; it exists and is writable.

    Raises:
        LocalStackError: No such directory can be made.
    """
    if os.geteuid() == 0 and not os.environ.get("XDG_CACHE_HOME"):
        wanted = Path("/var/cache") / _APP
    else:
        wanted = platformdirs.user_cache_path(_APP)
    # A daemon account often has a home that does not exist; its temporary directory does.
    fallback = Path(tempfile.gettempdir()) / f"{_APP}-{os.geteuid()}"
    for path in (wanted, fallback):
        if _usable(path):
            return path
    raise LocalStackError(
        "There is no directory to keep programs in",
        detail=f"Neither {wanted} nor {fallback} can be written.",
        hint="Set XDG_CACHE_HOME to a directory of yours.",
    )


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, passable for everybody whatever the umask says.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)


def _usable(path: Path) -> bool:
    try:
        make_directory(path)
        info = path.lstat()
    except OSError:
        return False
    # We run what lies here: in a shared /tmp somebody else may have made the directory first.
    mine = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()
    return mine and not info.st_mode & 0o022 and os.access(path, os.W_OK | os.X_OK)
