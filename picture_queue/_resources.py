"""The migrations that ship with the package, read from the wheel or from the checkout."""

import hashlib
from pathlib import Path
from typing import NamedTuple

# Not `resolve`: the embedded stack may run as a user who can reach the package only by a path below
# /proc/self/fd. `resolve` would replace it with a path through a home directory that this user
# cannot enter.
_PACKAGE = Path(__file__).absolute().parent


class Migration(NamedTuple):
    """A migration file of the package.

    Args:
        file_name: ``<14 digits>_{pre|post}_<title>.sql``.
        sql: The content of the file.
    """

    file_name: str
    sql: str

    @property
    def name(self) -> str:
        """The file name without ``.sql``.

        `picture-queue install` puts a new timestamp before this name and keeps the name unchanged.
        """
        return self.file_name.removesuffix(".sql")

    @property
    def version(self) -> str:
        """The 14 digits at the start of the file name.

        The Supabase CLI records them as the version of an applied migration, unless `picture-queue
        install` has put a new timestamp before the name.
        """
        return self.name.partition("_")[0]

    @property
    def title(self) -> str:
        """The name without the version."""
        return self.name.partition("_")[2]

    @property
    def digest(self) -> str:
        """The SHA-256 of the SQL, independent of its line endings."""
        return digest(self.sql)


def digest(text: str) -> str:
    """Return the SHA-256 of a text, independent of its line endings."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return the migrations in the order in which they apply.

    Raises:
        FileNotFoundError: The installed package is broken: it has no migrations.
    """
    files = sorted(_sql_directory().glob("*.sql"))
    if not files:
        raise FileNotFoundError(f"no migrations in {_sql_directory()}")
    return [Migration(file.name, file.read_text(encoding="utf-8")) for file in files]


def find_place(sql: str, position: str | int | None, context: str | None) -> str | None:
    """Return the place where a migration failed: the line of the file, or the PL/pgSQL context.

    Args:
        sql: The content of the file.
        position: The position in the file that PostgreSQL reports, in characters from 1.
        context: The PL/pgSQL call stack that PostgreSQL reports as CONTEXT, if a function failed.
    """
    if position:
        return f"Line {sql.count(chr(10), 0, int(position) - 1) + 1} of the file"
    return context


def _sql_directory() -> Path:
    # Only a wheel contains `_sql`. An editable install reads the directory of the checkout.
    in_wheel = _PACKAGE / "_sql" / "migrations"
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / "supabase" / "migrations"
