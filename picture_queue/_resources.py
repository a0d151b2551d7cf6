"""Finds the SQL that ships with the package: in the wheel, else in the checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _sql_directory() -> Path:
    # An editable install has no `_sql`; the checkout's own folder stands beside the package.
    shipped = _PACKAGE / "_sql" / "migrations"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "supabase" / "migrations"


def migrations() -> list[tuple[str, str]]:
    """Returns the migrations as (file name, SQL), in the order they apply.

    Raises:
        FileNotFoundError: The installation is broken: no migration is where it belongs.
    """
    files = sorted(_sql_directory().glob("*.sql"))
    if not files:
        raise FileNotFoundError(f"no migrations in {_sql_directory()}")
    return [(file.name, file.read_text(encoding="utf-8")) for file in files]
