"""Runs the pgTAP tests of supabase/tests on a throwaway embedded Supabase.

``python scripts/test_sql.py [FILE …]``. Each file is one sentence that has to hold; it is plain
pgTAP in a transaction that is rolled back, so `supabase test db` runs it too. pgTAP's own SQL comes
from Debian's package and goes into a schema of its own. Exits with what pg_prove says, or with 1
when something is not installed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from picture_queue.local.stack import LocalSupabase

TESTS = Path(__file__).resolve().parent.parent / "supabase" / "tests"
INSTALL = "apt-get install postgresql-15-pgtap libtap-parser-sourcehandler-pgtap-perl"
TIMEOUT = 600  # seconds, for all of them


def pgtap() -> Path | None:
    """Returns the newest SQL script of pgTAP that is installed, upgrade scripts left aside."""
    found = [
        (tuple(int(part) for part in name[1].split(".")), path)
        for path in Path("/usr/share/postgresql").glob("*/extension/pgtap--*.sql")
        if (name := re.fullmatch(r"pgtap--([\d.]+)\.sql", path.name))
    ]
    return max(found)[1] if found else None


def main(files: list[str]) -> int:
    """Runs these files, or all."""
    script = pgtap()
    if script is None or not shutil.which("pg_prove") or not shutil.which("psql"):
        print(f"pgTAP, pg_prove or psql is missing: {INSTALL}", file=sys.stderr)
        return 1
    with LocalSupabase() as stack:

        def run(command: list[str], search_path: str) -> int:
            options = f"-c search_path={search_path} -c client_min_messages=warning"
            environment = {**os.environ, "PGOPTIONS": options}
            return subprocess.run(command, env=environment, timeout=TIMEOUT, check=False).returncode

        psql = ["psql", "-q", "-X", "-o", os.devnull, "-v", "ON_ERROR_STOP=1", "-d", stack.db_url]
        code = run(
            [*psql, "-c", "create schema tap", "-c", "grant usage on schema tap to public"], ""
        )
        code = code or run([*psql, "-f", str(script)], "tap")
        prove = ["pg_prove", "--ext", ".sql", "--recurse", "--failures", "--dbname", stack.db_url]
        return code or run([*prove, *(files or [str(TESTS)])], "public,extensions,tap")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
