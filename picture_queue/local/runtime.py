"""The Python that runs the stack's own processes, also where the service user cannot reach it.

Root's Python often lies in a closed home. The service user then gets open descriptors of the
directories it needs and finds them below /proc/self/fd: a path there starts at the directory
itself, so that the closed ones above it do not count. Nothing else of the home opens up by that.
"""

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from picture_queue.errors import LocalStackError
from picture_queue.local.ownership import describe
from picture_queue.local.paths import ServiceUser, reachable

_DESCRIPTORS: Final = "PICTURE_QUEUE_RUNTIME_DESCRIPTORS"
_PACKAGES: Final = ("picture_queue", "picture_queue_cli")


@dataclass(frozen=True)
class Runtime:
    """A Python for a child process.

    Args:
        program: What to execute.
        environment: Variables to add.
        identity: Arguments of `Popen` that make the process the user's.
        descriptors: To be passed on; `close` them afterwards.
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
    """Return the descriptors that this process runs from, and its Python children need too."""
    return tuple(int(number) for number in os.environ.get(_DESCRIPTORS, "").split())


def runtime_for(user: ServiceUser | None, home: Path) -> Runtime:
    """Return the Python that runs our modules as a user.

    Args:
        user: Who; None is the caller.
        home: The home directory of that user's processes.

    Raises:
        LocalStackError: That user cannot reach it, and cannot be helped.
    """
    if user is None:
        return Runtime(sys.executable, {}, {})
    environment = {"HOME": str(home), "USER": user.name, "LOGNAME": user.name}
    identity = {"user": user.uid, "group": user.gid, "extra_groups": []}
    program = Path(sys.executable).resolve()
    base = Path(sys.base_prefix)
    libraries = _libraries()
    parts = (program, base, Path(sys.prefix), *libraries)
    closed = next((part for part in parts if not reachable(part, user)), None)
    if closed is None:
        return Runtime(sys.executable, environment, identity)
    if not Path("/proc/self/fd").exists():
        raise LocalStackError(
            "The stack's user cannot reach this Python",
            detail=f"{user.name}: {describe(closed, closed.stat())}",
            hint="Install picture-queue where everybody may read, such as below /opt, or start "
            "the stack as an ordinary user.",
        )
    descriptors: list[int] = []

    def reach(part: Path) -> str:
        if reachable(part, user):
            return str(part)
        descriptors.append(os.open(part, os.O_PATH))
        return f"/proc/self/fd/{descriptors[-1]}"

    environment["PYTHONPATH"] = os.pathsep.join(reach(library) for library in libraries)
    if not reachable(base, user):
        place = reach(base)
        # Its libpython may be a shared one, which is looked for by its real path.
        found = [f"{place}/lib", os.environ.get("LD_LIBRARY_PATH")]
        environment |= {"PYTHONHOME": place, "LD_LIBRARY_PATH": ":".join(filter(None, found))}
    command = reach(program)
    environment[_DESCRIPTORS] = " ".join(map(str, descriptors))
    return Runtime(command, environment, identity, tuple(descriptors))


def _libraries() -> list[Path]:
    """Return the directories that our modules and what they import lie in."""
    found = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        for place in (spec and spec.submodule_search_locations) or ():
            found.append(Path(place).parent)
    found += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    return list(dict.fromkeys(path.resolve() for path in found if path.is_dir()))
