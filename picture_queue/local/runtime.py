"""The Python that runs the stack's own processes, even if the service user cannot reach its path.

Root's Python is often below a home directory that others cannot enter. The service user then gets
open descriptors of the directories that it needs, and uses paths below /proc/self/fd. Such a path
starts at the directory itself, so the kernel does not check the directories above. Each descriptor
is the root of a detached copy of the mount, so `..` does not lead to the rest of the home. In most
containers the kernel refuses this copy. There, `..` leads to all directories below the home whose
modes permit access.
"""

import ctypes
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from picture_queue._files import describe_path
from picture_queue.errors import LocalStackError
from picture_queue.local.paths import ServiceUser, is_reachable

_DESCRIPTORS: Final = "PICTURE_QUEUE_RUNTIME_DESCRIPTORS"
# From <asm-generic/unistd.h>, <fcntl.h> and <linux/mount.h>.
_OPEN_TREE: Final = 428  # the number of the system call
_AT_FDCWD: Final = -100
_OPEN_TREE_FLAGS: Final = 0x1 | 0x8000 | os.O_CLOEXEC  # OPEN_TREE_CLONE | AT_RECURSIVE
_PACKAGES: Final = ("picture_queue", "picture_queue_cli")


@dataclass(frozen=True)
class Runtime:
    """A Python for a child process.

    Args:
        program: The path to execute.
        environment: Variables to add to the environment.
        identity: Arguments of `Popen` that set the user.
        descriptors: Descriptors that the child inherits. The caller must call `close` after the
            start.
    """

    program: str
    environment: Mapping[str, str]
    identity: dict[str, Any]
    descriptors: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors in this process."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def inherited_descriptors() -> tuple[int, ...]:
    """Return the descriptors of Python that this process inherited and must pass to children."""
    return tuple(int(number) for number in os.environ.get(_DESCRIPTORS, "").split())


def runtime_for(user: ServiceUser | None, home: Path) -> Runtime:
    """Return the Python that runs our modules as a user.

    Args:
        user: The user; None is the caller.
        home: The home directory of that user's processes.

    Raises:
        LocalStackError: The user cannot reach this Python, and there is no /proc/self/fd.
    """
    if user is None:
        return Runtime(sys.executable, {}, {})
    environment = {"HOME": str(home), "USER": user.name, "LOGNAME": user.name}
    identity = {"user": user.uid, "group": user.gid, "extra_groups": []}
    program = Path(sys.executable).resolve()
    base = Path(sys.base_prefix)
    libraries = _libraries()
    parts = (program, base, Path(sys.prefix), *libraries)
    unreachable = next((part for part in parts if not is_reachable(part, user)), None)
    if unreachable is None:
        return Runtime(sys.executable, environment, identity)
    if not Path("/proc/self/fd").exists():
        raise LocalStackError(
            "The stack's user cannot reach this Python",
            detail=f"{user.name}: {describe_path(unreachable, unreachable.stat())}",
            hint="Install picture-queue where every user may read, such as below /opt, or start "
            "the stack as an ordinary user.",
        )
    descriptors: list[int] = []

    def reachable_path(part: Path) -> str:
        if is_reachable(part, user):
            return str(part)
        descriptors.append(_open_detached(part))
        return f"/proc/self/fd/{descriptors[-1]}"

    environment["PYTHONPATH"] = os.pathsep.join(map(reachable_path, libraries))
    if not is_reachable(base, user):
        home_path = reachable_path(base)
        # The loader looks for a shared libpython by its real path, which the user cannot reach.
        library_paths = filter(None, (f"{home_path}/lib", os.environ.get("LD_LIBRARY_PATH")))
        environment |= {"PYTHONHOME": home_path, "LD_LIBRARY_PATH": ":".join(library_paths)}
    command = reachable_path(program)
    environment[_DESCRIPTORS] = " ".join(map(str, descriptors))
    return Runtime(command, environment, identity, tuple(descriptors))


def _open_detached(path: Path) -> int:
    """Return a descriptor for a path, from which `..` leads nowhere if the kernel permits this."""
    # Python has no function for open_tree(2), whose number is the same on all current processors.
    descriptor: int = ctypes.CDLL(None).syscall(
        _OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_FLAGS
    )
    return descriptor if descriptor >= 0 else os.open(path, os.O_PATH)


def _libraries() -> list[Path]:
    """Return the directories that contain our modules and their dependencies."""
    paths = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        for directory in (spec and spec.submodule_search_locations) or ():
            paths.append(Path(directory).parent)
    paths += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    return list(dict.fromkeys(path.resolve() for path in paths if path.is_dir()))
