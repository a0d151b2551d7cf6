"""The SQL that ships with the package, in the wheel or else in the checkout."""

import hashlib
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).resolve().parent


class Migration(NamedTuple):
    """One file that ships with the package.

    Args:
        file_name: ``<14 digits>_{pre|post}_<what>.sql``.
        sql: What is in it.
    """

    file_name: str
    sql: str

    @property
    def name(self) -> str:
        """The name that identifies it everywhere: the original one, without ``.sql``."""
        return self.file_name.removesuffix(".sql")

    @property
    def version(self) -> str:
        """The digits, by which the Supabase CLI knows it where it was not stamped anew."""
        return self.name.partition("_")[0]

    @property
    def title(self) -> str:
        """The rest of the name."""
        return self.name.partition("_")[2]

    @property
    def digest(self) -> str:
        """SHA-256 of what is in it."""
        return digest(self.sql)


def digest(text: str) -> str:
    """Return the SHA-256 of a text, whatever its line endings are."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return the migrations in the order they apply.

    Raises:
        FileNotFoundError: The installation is broken: no migration is where it belongs.
    """
    files = sorted(_sql_directory().glob("*.sql"))
    if not files:
        raise FileNotFoundError(f"no migrations in {_sql_directory()}")
    return [Migration(file.name, file.read_text(encoding="utf-8")) for file in files]


def place_of(sql: str, position: str | int | None, context: str | None) -> str | None:
    """Say where a migration failed: the line of the file, or the function whose body failed.

    Args:
        sql: What is in the file.
        position: The character the database names, counted from 1.
        context: The functions it was in.
    """
    if position:
        return f"Line {sql.count(chr(10), 0, int(position) - 1) + 1} of the file"
    return context


def _sql_directory() -> Path:
    # An editable install has no `_sql`; the checkout's own folder stands beside the package.
    shipped = _PACKAGE / "_sql" / "migrations"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "supabase" / "migrations"
