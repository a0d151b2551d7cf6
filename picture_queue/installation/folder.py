"""Installation of the migrations in a project's ``supabase/migrations/``.

The Supabase CLI applies files in the order of the timestamps in their names, and refuses a file
that is older than the last applied one (``supabase db push``). So each file gets a new timestamp:
now, or the second after the project's newest file if that is later. The original name follows the
timestamp and identifies the migration.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from picture_queue._files import OpenDirectory, find_replaceable
from picture_queue._resources import Migration, digest, migrations
from picture_queue.errors import InstallationRefused, SettingsError
from picture_queue.settings import safe_directories, safe_directory_hint

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
    directory: OpenDirectory
    name: str
    version: str
    original: str  # the name after the timestamp

    @property
    def path(self) -> Path:
        return self.directory.path / self.name

    def state(self, shipped: Migration) -> str:
        """Return ``present``, ``edited``, or ``other`` for another version of the migration."""
        if self.directory.stat(self.name).st_size > _MAX_SIZE:
            return "edited"
        with self.directory.open_file(self.name) as file:
            text = file.read()
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
            can be replaced or written by other users.
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
    try:
        with contextlib.ExitStack() as opened:
            supabase = opened.enter_context(OpenDirectory(project))
            _expect_safe(supabase)
            with contextlib.suppress(FileExistsError):
                supabase.make_directory("migrations")
            directory = opened.enter_context(OpenDirectory(project / "migrations"))
            _expect_safe(directory)
            staging = opened.enter_context(_staging(supabase))
            time = now or datetime.now(UTC)
            return _install(directory, staging, migrations(), package_version, time)
    except OSError as error:
        raise SettingsError(
            f"The migrations cannot be written: {error.strerror}", detail=str(error.filename)
        ) from error


def _expect_safe(directory: OpenDirectory) -> None:
    """Check that only root and the caller can replace an open directory, and files in it.

    The directory is opened before the check. So if a directory of the path is replaced between
    both, the path leads to another directory than the open one.

    Raises:
        SettingsError: Another user can, or has replaced the directory.
    """
    if os.name != "posix":
        return
    replaceable = find_replaceable(directory.path, safe_directories())
    if replaceable is not None:
        raise SettingsError(
            f"Other users can replace `{replaceable.path}` or files in it",
            detail=str(replaceable),
            hint=safe_directory_hint(replaceable),
        )
    if not directory.is_at_path():
        raise SettingsError(
            f"`{directory.path}` was replaced during the installation",
            hint="Install in a copy of the project that only you can write",
        )


class _Staging:
    """The directory for unfinished files. It deletes only files that it created."""

    def __init__(self, project: OpenDirectory) -> None:
        self.directory = OpenDirectory(project.path / _STAGING, project)
        self._project = project
        self._names: list[str] = []

    def write(self, name: str, text: str) -> None:
        """Write a new file."""
        with self.directory.create_file(name) as file:
            self._names.append(name)
            file.write(text)

    def remove(self) -> None:
        """Delete the files that were not moved, and the directory if it is empty then."""
        with contextlib.suppress(OSError), self.directory as directory:
            for name in self._names:
                with contextlib.suppress(FileNotFoundError):
                    directory.delete_file(name)
            self._project.delete_directory(_STAGING)


def _install(
    directory: OpenDirectory,
    staging: _Staging,
    shipped: list[Migration],
    version: str,
    now: datetime,
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
        directory.path,
        written=tuple(_move(staging.directory, directory, names)),
        present=tuple(path for path, state in states.items() if state == "present"),
        edited=tuple(path for path, state in states.items() if state == "edited"),
    )


@contextlib.contextmanager
def _staging(project: OpenDirectory) -> Iterator[_Staging]:
    """Create the staging directory, and remove it afterwards."""
    try:
        project.make_directory(_STAGING)
    except FileExistsError:
        raise InstallationRefused(
            "Another installation is running, or was interrupted",
            detail=str(project.path / _STAGING),
            hint="If none is running, delete that directory and try again",
        ) from None
    staging = _Staging(project)
    try:
        yield staging
    finally:
        staging.remove()


def _move(staging: OpenDirectory, directory: OpenDirectory, names: list[str]) -> list[Path]:
    """Move complete files into the folder, oldest first; remove all of them if one move fails."""
    moved: list[str] = []
    try:
        for name in names:
            staging.move_file(name, directory)
            moved.append(name)
    except BaseException:
        for name in moved:
            directory.delete_file(name)
        raise
    return [directory.path / name for name in names]


def _list_files(directory: OpenDirectory) -> list[_File]:
    """Return the migrations of the folder in the order in which the CLI applies them."""
    matches = [
        (name, match)
        for name in directory.names()
        if (match := _MIGRATION.fullmatch(name)) and _is_file(directory, name)
    ]
    return [_File(directory, name, match[1], match[2]) for name, match in sorted(matches)]


def _is_file(directory: OpenDirectory, name: str) -> bool:
    try:
        return stat.S_ISREG(directory.stat(name).st_mode)
    except OSError:  # a symlink without a target
        return False


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
        if file.original not in names and _is_unknown(file, names):
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


def _is_unknown(file: _File, names: set[str]) -> bool:
    """Return whether a file has our header, but with the name of another migration."""
    with file.directory.open_file(file.name) as lines:
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
