"""Writes the migrations of this package into a project's ``supabase/migrations/``.

The Supabase CLI applies files in the order of the digits before their name, and refuses one that is
older than the last applied one (``supabase db push``). So each file gets a new timestamp, later
than the project's newest and than now, and is identified by the original name after it.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from picture_queue._resources import Migration, digest, migrations
from picture_queue.errors import InstallationRefused, SettingsError

# The names the CLI takes (pkg/migration/list.go of https://github.com/supabase/cli).
_MIGRATION = re.compile(r"([0-9]+)_(.*)\.sql")
_HEADER = re.compile(r"-- (\S+) of picture-queue (\S+), sha256 ([0-9a-f]{64})\. .*")
# Created by the one process that writes, so there is only one; unfinished files are only in it.
_STAGING = ".picture-queue-install"


@dataclass(frozen=True)
class Installation:
    """The result of an installation.

    Args:
        directory: The directory of the migrations.
        written: Files written now.
        present: Files that exist unchanged.
        edited: Files that exist and were edited.
    """

    directory: Path
    written: tuple[Path, ...]
    present: tuple[Path, ...]
    edited: tuple[Path, ...]


@dataclass(frozen=True)
class _File:
    path: Path
    version: str
    original: str  # the name after the timestamp; the whole name of a copied file

    def state(self, shipped: Migration) -> str:
        """Return ``present``, ``edited``, or ``other``: of another version of the migration."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        first, _, rest = text.partition("\n")
        header = _HEADER.fullmatch(first.rstrip())
        if header is None:
            return "present" if digest(text) == shipped.digest else "edited"
        if digest(rest) != header[3]:
            return "edited"
        return "present" if header[3] == shipped.digest else "other"


def install(project: Path, package_version: str, now: datetime | None = None) -> Installation:
    """Write the missing migrations into the folder, all or none.

    Args:
        project: The project's ``supabase`` directory, as ``supabase init`` made it.
        package_version: Named in the files.
        now: The time for the timestamps; None: now.

    Raises:
        SettingsError: There is no such directory, or it cannot be written.
        InstallationRefused: The files in the folder conflict; nothing was written.
    """
    if not project.is_dir():
        raise SettingsError(
            f"`{project}` is not a directory",
            hint="Run `supabase init` in your project first, or name its directory with --dir",
        )
    directory, shipped = project / "migrations", migrations()
    try:
        directory.mkdir(exist_ok=True)
        with _staging(project) as staging:
            return _install(directory, staging, shipped, package_version, now or datetime.now(UTC))
    except OSError as error:
        raise SettingsError(
            f"The migrations cannot be written: {error.strerror}", detail=str(error.filename)
        ) from error


def _install(
    directory: Path, staging: Path, shipped: list[Migration], version: str, now: datetime
) -> Installation:
    files = _files(directory)
    found = _found(files, shipped)
    states = {file.path: file.state(migration) for migration, file in found}
    for migration, file in found:
        if states[file.path] == "other":
            raise _other_state(file, migration)
    missing = shipped[len(found) :]
    names = _names(missing, files, now)
    for migration, name in zip(missing, names, strict=True):
        (staging / name).write_text(_with_header(migration, version), encoding="utf-8")
    return Installation(
        directory,
        written=tuple(_move(staging, directory, names)),
        present=tuple(path for path, state in states.items() if state == "present"),
        edited=tuple(path for path, state in states.items() if state == "edited"),
    )


@contextmanager
def _staging(project: Path) -> Iterator[Path]:
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
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _move(staging: Path, directory: Path, names: list[str]) -> list[Path]:
    """Move complete files into the folder, oldest first; remove them again if one fails."""
    moved: list[Path] = []
    try:
        for name in names:
            moved.append((staging / name).rename(directory / name))
    except BaseException:
        for path in moved:
            path.unlink()
        raise
    return moved


def _files(directory: Path) -> list[_File]:
    """Return the migrations of the folder in the order in which the CLI applies them."""
    matches = [
        (path, _MIGRATION.fullmatch(path.name)) for path in directory.iterdir() if path.is_file()
    ]
    files = [_File(path, found[1], found[2]) for path, found in matches if found]
    return sorted(files, key=lambda file: file.path.name)


def _found(files: list[_File], shipped: list[Migration]) -> list[tuple[Migration, _File]]:
    """Match our migrations with the files; these must be the first ones, in their order."""
    found = []
    for migration in shipped:
        mine = [f for f in files if migration.name in (f.original, f.path.stem)]
        if len(mine) > 1:
            raise InstallationRefused(
                f"{migration.name} is installed twice",
                detail=", ".join(file.path.name for file in mine),
                hint="Delete the one that `supabase migration list` does not show as applied",
            )
        found += [(migration, file) for file in mine]
    _expect_order(found, shipped)
    names = {migration.name for migration in shipped}
    for file in files:
        if file.original not in names and _is_ours(file.path, names):
            raise InstallationRefused(
                f"{file.path.name} was installed by a newer picture-queue than this",
                hint="Upgrade this package: pip install --upgrade picture-queue",
            )
    return found


def _expect_order(found: list[tuple[Migration, _File]], shipped: list[Migration]) -> None:
    there = [migration for migration, _ in found]
    for migration, wanted in zip(there, shipped, strict=False):
        if migration is not wanted:
            raise InstallationRefused(
                f"{wanted.name} is missing, but {migration.name}, which comes after it, exists",
                hint="Take the file from your version control, or install into an empty folder",
            )
    names = [file.path.name for _, file in found]
    if names != sorted(names):
        raise InstallationRefused(
            "The timestamps of the installed migrations are out of order",
            detail=", ".join(names),
            hint="Rename those that are not applied to any database yet",
        )


def _is_ours(path: Path, known: set[str]) -> bool:
    with path.open(encoding="utf-8", errors="replace") as lines:
        header = _HEADER.fullmatch(lines.readline().rstrip())
    return header is not None and header[1].removesuffix(".sql") not in known


def _names(missing: list[Migration], files: list[_File], now: datetime) -> list[str]:
    """Return the names of the files to write, with timestamps after now and after the newest."""
    stamp = int(now.astimezone(UTC).strftime("%Y%m%d%H%M%S"))
    newest = max((file.version for file in files), default="")
    # The CLI compares timestamps as text.
    if missing and newest >= str(stamp):
        if len(newest) != len(str(stamp)):
            raise InstallationRefused(
                "No timestamp comes after the newest migration of the folder",
                detail=newest,
                hint="Give it fourteen digits, as `supabase migration new` does",
            )
        stamp = int(newest) + 1
    return [f"{stamp + i}_{migration.file_name}" for i, migration in enumerate(missing)]


def _with_header(migration: Migration, version: str) -> str:
    return (
        f"-- {migration.file_name} of picture-queue {version}, sha256 {migration.digest}. "
        f"Installed by `picture-queue install`; leave it as it is.\n{migration.sql}"
    )


def _other_state(file: _File, shipped: Migration) -> InstallationRefused:
    return InstallationRefused(
        f"{file.path.name} is of another version of picture-queue than this package",
        detail=f"before the release of 0.1.0, {shipped.name} still changes and has no upgrade",
        hint="If no database has it yet, delete the file and install again; else see "
        "docs/supabase.md, Pre-release schemas",
    )
