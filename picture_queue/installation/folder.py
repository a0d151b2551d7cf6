"""Installation of the migrations in a project's ``supabase/migrations/``.

The Supabase CLI applies files in the order of the timestamps in their names, and refuses a file
that is older than the last applied one (``supabase db push``). So each file gets a new timestamp:
now, or the second after the project's newest file if that is later. The original name follows the
timestamp and identifies the migration.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from picture_queue._files import describe_path, is_writable_by_others, trusted_owners
from picture_queue._resources import Migration, digest, migrations
from picture_queue.errors import InstallationRefused, SettingsError

# File names that the CLI accepts (pkg/migration/list.go of https://github.com/supabase/cli).
_MIGRATION = re.compile(r"([0-9]+)_(.*)\.sql")
_HEADER = re.compile(r"-- (\S+) of picture-queue (\S+), sha256 ([0-9a-f]{64})\. .*")
# Larger files are not ours, and are not read completely.
_MAX_HEADER = 1000  # characters
_MAX_SIZE = 10_000_000  # bytes
# Directory for unfinished files. It also serves as a lock: only one process can create it.
_STAGING = ".picture-queue-install"


@dataclass(frozen=True)
class Installation:
    """The result of an installation.

    Args:
        directory: The directory of the migrations.
        written: The files that this installation wrote.
        present: The files that existed, unchanged.
        edited: The files that existed, edited.
    """

    directory: Path
    written: tuple[Path, ...]
    present: tuple[Path, ...]
    edited: tuple[Path, ...]


@dataclass(frozen=True)
class _File:
    path: Path
    version: str
    original: str  # the name after the timestamp

    def state(self, shipped: Migration) -> str:
        """Return ``present``, ``edited``, or ``other`` for another version of the migration."""
        if self.path.stat().st_size > _MAX_SIZE:
            return "edited"
        text = self.path.read_text(encoding="utf-8", errors="replace")
        first_line, _, sql = text.partition("\n")
        header = _HEADER.fullmatch(first_line.rstrip())
        if header is None:
            return "present" if digest(text) == shipped.digest else "edited"
        installed_digest = header[3]
        if digest(sql) != installed_digest:
            return "edited"
        return "present" if installed_digest == shipped.digest else "other"


def install(project: Path, package_version: str, now: datetime | None = None) -> Installation:
    """Write the missing migrations into the folder, all or none.

    Args:
        project: The project's ``supabase`` directory, which ``supabase init`` created.
        package_version: The version of this package, which the files mention.
        now: The time for the timestamps; None: the present time.

    Raises:
        SettingsError: ``project`` is not the directory of a Supabase project, cannot be written, or
            can be written by other users.
        InstallationRefused: The files in the folder conflict; nothing was written.
    """
    if not project.is_dir():
        raise SettingsError(
            f"`{project}` is not a directory",
            hint="Run `supabase init` in your project first, or name its directory with --dir",
        )
    nested = project / "supabase"
    if not (project / "config.toml").exists() and (nested / "config.toml").exists():
        raise SettingsError(
            f"`{project}` is not the directory that `supabase init` created",
            hint=f"Use --dir {nested}",
        )
    directory, shipped = project / "migrations", migrations()
    try:
        _expect_private(project)
        directory.mkdir(exist_ok=True)
        _expect_private(directory)
        with _staging(project) as staging:
            return _install(directory, staging, shipped, package_version, now or datetime.now(UTC))
    except OSError as error:
        raise SettingsError(
            f"The migrations cannot be written: {error.strerror}", detail=str(error.filename)
        ) from error


def _expect_private(directory: Path) -> None:
    """Check that only root and the caller can add, replace and delete files in a directory.

    Another user could exchange files and directories during the installation.

    Raises:
        SettingsError: Another user can.
    """
    if os.name != "posix":
        return
    info = directory.stat()
    if not {info.st_uid, directory.lstat().st_uid} <= trusted_owners():
        problem = "belongs to another user"
    elif is_writable_by_others(directory, info):
        problem = "can be written by other users"
    else:
        return
    raise SettingsError(
        f"`{directory}` {problem}",
        detail=describe_path(directory, info),
        hint="Install in a copy of the project that only you can write",
    )


class _Staging:
    """The directory for unfinished files. It deletes only files that it created."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] = []
        self._descriptor: int | None = None
        if os.open in os.supports_dir_fd:  # not on Windows
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags)

    def _name(self, name: str) -> str:
        return name if self._descriptor is not None else str(self.path / name)

    def write(self, name: str, text: str) -> None:
        """Write a new file; a symlink is not followed."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = os.open(self._name(name), flags, 0o666, dir_fd=self._descriptor)
        self._names.append(name)
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)

    def remove(self) -> None:
        """Delete the files that were not moved, and the directory if it is empty then."""
        with contextlib.suppress(OSError):
            for name in self._names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name(name), dir_fd=self._descriptor)
            self.path.rmdir()
        if self._descriptor is not None:
            os.close(self._descriptor)


def _install(
    directory: Path, staging: _Staging, shipped: list[Migration], version: str, now: datetime
) -> Installation:
    files = _list_files(directory)
    installed = _match_files(files, shipped)
    states = {file.path: file.state(migration) for migration, file in installed}
    for migration, file in installed:
        if states[file.path] == "other":
            raise _other_version(file, migration)
    missing = shipped[len(installed) :]
    names = _new_names(missing, files, now)
    for migration, name in zip(missing, names, strict=True):
        staging.write(name, _add_header(migration, version))
    return Installation(
        directory,
        written=tuple(_move(staging.path, directory, names)),
        present=tuple(path for path, state in states.items() if state == "present"),
        edited=tuple(path for path, state in states.items() if state == "edited"),
    )


@contextlib.contextmanager
def _staging(project: Path) -> Iterator[_Staging]:
    """Create the staging directory, and remove it afterwards."""
    path = project / _STAGING
    try:
        path.mkdir()
    except FileExistsError:
        raise InstallationRefused(
            "Another installation is running, or was interrupted",
            detail=str(path),
            hint="If none is running, delete that directory and try again",
        ) from None
    staging = _Staging(path)
    try:
        yield staging
    finally:
        staging.remove()


def _move(staging: Path, directory: Path, names: list[str]) -> list[Path]:
    """Move complete files into the folder, oldest first; remove all of them if one move fails."""
    moved: list[Path] = []
    try:
        for name in names:
            moved.append((staging / name).rename(directory / name))
    except BaseException:
        for path in moved:
            path.unlink()
        raise
    return moved


def _list_files(directory: Path) -> list[_File]:
    """Return the migrations of the folder in the order in which the CLI applies them."""
    matches = [
        (path, _MIGRATION.fullmatch(path.name)) for path in directory.iterdir() if path.is_file()
    ]
    files = [_File(path, match[1], match[2]) for path, match in matches if match]
    return sorted(files, key=lambda file: file.path.name)


def _match_files(files: list[_File], shipped: list[Migration]) -> list[tuple[Migration, _File]]:
    """Return the installed migrations of this package with their files, in the order of `shipped`.

    Raises:
        InstallationRefused: A migration is missing although a later one exists; a migration is
            installed twice; the order is wrong; or a newer version of this package has installed
            a migration.
    """
    installed = []
    for migration in shipped:
        copies = [file for file in files if migration.name in (file.original, file.path.stem)]
        if len(copies) > 1:
            raise InstallationRefused(
                f"{migration.name} is installed twice",
                detail=", ".join(file.path.name for file in copies),
                hint="Delete the file that `supabase migration list` does not show as applied",
            )
        installed += [(migration, file) for file in copies]
    _expect_order(installed, shipped)
    names = {migration.name for migration in shipped}
    for file in files:
        if file.original not in names and _is_unknown(file.path, names):
            raise InstallationRefused(
                f"{file.path.name} was installed by a newer version of picture-queue",
                hint="Upgrade this package: pip install --upgrade picture-queue",
            )
    return installed


def _expect_order(installed: list[tuple[Migration, _File]], shipped: list[Migration]) -> None:
    for (migration, _), expected in zip(installed, shipped, strict=False):
        if migration is not expected:
            raise InstallationRefused(
                f"{expected.name} is missing, but the later migration {migration.name} exists",
                hint="Take the file from your version control, or install into an empty folder",
            )
    names = [file.path.name for _, file in installed]
    if names != sorted(names):
        raise InstallationRefused(
            "The timestamps of the installed migrations are out of order",
            detail=", ".join(names),
            hint="Rename the migrations that are not applied to any database yet",
        )


def _is_unknown(path: Path, names: set[str]) -> bool:
    """Return whether a file has our header, but with the name of another migration."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        header = _HEADER.fullmatch(lines.readline(_MAX_HEADER).rstrip())
    return header is not None and header[1].removesuffix(".sql") not in names


def _new_names(missing: list[Migration], files: list[_File], now: datetime) -> list[str]:
    """Return the names of the files to write.

    The first timestamp is now, or the second after the newest file if that is later.

    Raises:
        InstallationRefused: The timestamp of the newest file does not have fourteen digits.
    """
    stamp = int(now.astimezone(UTC).strftime("%Y%m%d%H%M%S"))
    newest = max((file.version for file in files), default="")
    # The CLI compares timestamps as text.
    if missing and newest >= str(stamp):
        if len(newest) != len(str(stamp)):
            raise InstallationRefused(
                "The timestamp of the newest migration does not have fourteen digits",
                detail=newest,
                hint="Rename the file to a timestamp such as `supabase migration new` gives",
            )
        stamp = int(newest) + 1
    return [f"{stamp + i}_{migration.file_name}" for i, migration in enumerate(missing)]


def _add_header(migration: Migration, version: str) -> str:
    return (
        f"-- {migration.file_name} of picture-queue {version}, sha256 {migration.digest}. "
        f"Installed by `picture-queue install`; do not edit.\n{migration.sql}"
    )


def _other_version(file: _File, shipped: Migration) -> InstallationRefused:
    return InstallationRefused(
        f"{file.path.name} was installed by another version of picture-queue",
        detail=f"{shipped.name} may change until the release of 0.1.0, and has no upgrade",
        hint="If it is not applied to any database yet, delete the file and install again; "
        "otherwise see docs/supabase.md, Pre-release schemas",
    )
