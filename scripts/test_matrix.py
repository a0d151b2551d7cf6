"""Run the tests of the SQL and of the worker on every supported version of Postgres.

``python scripts/test_matrix.py [MAJOR …]``. `make test` runs all tests on the newest version. The
exit code is 1 if a test failed twice (see run_tests.py). It is also 1 if a version is
not installed; the script then prints the command that installs it.
"""

import os
import subprocess
import sys
import time

from postgres_versions import POSTGRES, ROOT, list_missing
from rich.console import Console
from rich.table import Table

TESTS = (
    ("pgTAP", (sys.executable, "scripts/test_sql.py")),
    (
        "worker",
        (
            sys.executable,
            "scripts/run_tests.py",
            *("-q", "-n", "2", "--dist", "loadfile"),  # most of these tests wait
            "tests/worker",
            "tests/generations/test_worker.py",
            "--ignore=tests/worker/isolation",  # these tests do not depend on Postgres
            "tests/conformance/test_engine.py",
        ),
    ),
)
TIMEOUT = 900  # seconds for one suite


def run(major: int, command: tuple[str, ...]) -> tuple[bool, float]:
    """Run a suite on a version; return whether it passed, and its duration in seconds."""
    environment = os.environ | {"PICTURE_QUEUE_POSTGRES_BIN": str(POSTGRES[major][0])}
    began = time.perf_counter()
    process = subprocess.run(command, cwd=ROOT, env=environment, timeout=TIMEOUT, check=False)
    return process.returncode == 0, time.perf_counter() - began


def main(majors: list[int]) -> int:
    """Run all suites on these versions, and print a table of the results."""
    console = Console()
    if lines := list_missing(majors):
        print("\n".join(lines), file=sys.stderr)
        return 1
    table = Table("Postgres", *(name for name, _ in TESTS), title="Versions of Postgres")
    passed = True
    for major in majors:
        cells = []
        for name, command in TESTS:
            console.rule(f"Postgres {major}: {name}")
            suite_passed, seconds = run(major, command)
            passed = passed and suite_passed
            cells.append(f"{'✓' if suite_passed else '✗ failed'} {seconds:.0f} s")
        table.add_row(str(major), *cells)
    console.print(table)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main([int(major) for major in sys.argv[1:]] or sorted(POSTGRES)))
