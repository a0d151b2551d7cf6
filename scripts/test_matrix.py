"""Runs the SQL's own tests, and a worker's, on every Postgres that is supported.

``python scripts/test_matrix.py [MAJOR …]``. `make test` runs everything on the newest. Migrations
are applied by a role that is no superuser, as everywhere. Exits with 1 when a test failed twice, or
when a Postgres is missing, and then says how to get it.
"""

import os
import subprocess
import sys
import time

from postgres_versions import POSTGRES, ROOT, missing
from rich.console import Console
from rich.table import Table

TESTS = (
    ("pgTAP", (sys.executable, "scripts/test_sql.py")),
    (
        "worker",
        (
            sys.executable,
            "scripts/run_tests.py",
            "-q",
            "tests/worker",
            "tests/generations/test_worker.py",
            "--ignore=tests/worker/isolation",  # about Python, not about Postgres
            "tests/conformance/test_engine.py",
        ),
    ),
)
TIMEOUT = 900  # seconds for one suite


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
