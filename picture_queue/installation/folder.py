"""Writes the migrations that ship with the package into a project's ``supabase/migrations/``.

The Supabase CLI applies files in the order of the digits before their name, and refuses one that is
older than what a database has (``supabase db push``). So each file is stamped anew, later than the
project's newest and than now, and known again by the original name behind the new digits.
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
# Made by whoever writes, so that there is one, and what is unfinished lies nowhere else.
_STAGING = ".picture-queue-install"


@dataclass(frozen=True)
class Installation:
    """What an installation found and did.

    Args:
        directory: Where the migrations are.
        written: Files written now.
        present: Files that were there, as they ship.
        edited: Files that were there and are not as they were installed.
    """

    directory: Path
    written: tuple[Path, ...]
    present: tuple[Path, ...]
    edited: tuple[Path, ...]


@dataclass(frozen=True)
class _File:
    path: Path
    version: str
    original: str  # behind the new digits; the whole name where it was copied as it is

    def state(self, shipped: Migration) -> str:
        """Returns ``present``, ``edited``, or ``other``: installed by another state of ours."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        first, _, rest = text.partition("\n")
        header = _HEADER.fullmatch(first.rstrip())
        if header is None:
            return "present" if digest(text) == shipped.digest else "edited"
        if digest(rest) != header[3]:
            return "edited"
        return "present" if header[3] == shipped.digest else "other"


def install(project: Path, package_version: str, now: datetime | None = None) -> Installation:
    """Writes the migrations the folder does not have: all of them, or nothing.

    Args:
        project: The project's ``supabase`` directory, as ``supabase init`` made it.
        package_version: Named in the files.
        now: The time of the new stamps; None: now.

    Raises:
        SettingsError: There is no such directory, or it cannot be written.
        InstallationRefused: What is in the folder does not permit it; nothing was written.
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
    """Gives the one directory for what is being written, and takes it away again."""
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
    """Moves whole files into the folder, oldest first; takes them out again if one fails."""
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
    """Returns the migrations of the folder in the order the CLI applies them."""
    matches = [
        (path, _MIGRATION.fullmatch(path.name)) for path in directory.iterdir() if path.is_file()
    ]
    files = [_File(path, found[1], found[2]) for path, found in matches if found]
    return sorted(files, key=lambda file: file.path.name)


def _found(files: list[_File], shipped: list[Migration]) -> list[tuple[Migration, _File]]:
    """Joins what ships with what is there; it has to be the first so many, in their order."""
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
                f"{wanted.name} is missing, and {migration.name}, which comes after it, is there",
                hint="Take the file from your version control, or install into an empty folder",
            )
    names = [file.path.name for _, file in found]
    if names != sorted(names):
        raise InstallationRefused(
            "The installed migrations are stamped out of order",
            detail=", ".join(names),
            hint="Rename those that no database has yet",
        )


def _is_ours(path: Path, known: set[str]) -> bool:
    with path.open(encoding="utf-8", errors="replace") as lines:
        header = _HEADER.fullmatch(lines.readline().rstrip())
    return header is not None and header[1].removesuffix(".sql") not in known


def _names(missing: list[Migration], files: list[_File], now: datetime) -> list[str]:
    """Returns the file names of what is to be written: later than now, and than the newest."""
    stamp = int(now.astimezone(UTC).strftime("%Y%m%d%H%M%S"))
    newest = max((file.version for file in files), default="")
    # The CLI compares digits as text.
    if missing and newest >= str(stamp):
        if len(newest) != len(str(stamp)):
            raise InstallationRefused(
                "No time stamp comes after the newest migration of the folder",
                detail=newest,
                hint="Give it fourteen digits, such as `supabase migration new` writes",
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
        f"{file.path.name} is of another state of picture-queue than this package",
        detail=f"before 0.1.0 is released, {shipped.name} still changes and has no upgrade",
        hint="If no database has it yet, delete the file and install again; if one has, see "
        "docs/supabase.md, Before 0.1.0",
    )
