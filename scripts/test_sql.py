"""Run the pgTAP tests of supabase/tests on a temporary embedded Supabase.

``python scripts/test_sql.py [FILE …]``. The name of a file is the sentence that it tests. A file is
plain pgTAP in a transaction that is rolled back, so `supabase test db` can run it too. The SQL of
pgTAP comes from Debian's package and is installed into the schema `tap`. Failed files run once
more, each alone (see `rerun`). The exit code comes from pg_prove; it is 1 if a program is missing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from connection import split_password
from rerun import rerun_failed

from picture_queue.local.stack import LocalSupabase

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "supabase" / "tests"
INSTALL = "apt-get install postgresql-15-pgtap libtap-parser-sourcehandler-pgtap-perl"
TIMEOUT = 600  # seconds, for each program


def find_pgtap() -> Path | None:
    """Return the newest installed SQL script of pgTAP, except upgrade scripts."""
    scripts = [
        (tuple(int(part) for part in match[1].split(".")), path)
        for path in Path("/usr/share/postgresql").glob("*/extension/pgtap--*.sql")
        if (match := re.fullmatch(r"pgtap--([\d.]+)\.sql", path.name))
    ]
    return max(scripts)[1] if scripts else None


def run_pgtap(files: list[str], url: str, environment: Mapping[str, str]) -> int:
    """Run pgTAP files with pg_prove, then each failed file once more, alone.

    Args:
        files: Files and directories, as absolute paths.
        url: The address of a database that has pgTAP.
        environment: The environment variables for pg_prove.

    Returns:
        The exit code of the first run, or 0 if every failed file passed the second time.
    """
    command = ["pg_prove", "--norc", "--ext", ".sql", "--recurse", "--failures", "--dbname", url]
    # pg_prove saves its results in the working directory.
    with tempfile.TemporaryDirectory() as state:

        def run(*arguments: str) -> int:
            return subprocess.run(
                [*command, *arguments], cwd=state, env=environment, timeout=TIMEOUT, check=False
            ).returncode

        code = run("--state=save", *files)
        if code == 0:
            return 0
        printed = subprocess.run(
            [*command, "--state=failed", "--dry"],
            cwd=state,
            env=environment,
            timeout=TIMEOUT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.splitlines()
        # pg_prove prints its options too, between the files.
        failed = [Path(line) for line in printed if Path(line).is_file()]
        names = {os.path.relpath(file, ROOT): str(file) for file in failed}
        if not names:  # pg_prove itself failed
            return code
        return 0 if rerun_failed(list(names), lambda name: run(names[name]) == 0) else code


def main(files: list[str]) -> int:
    """Run these files, or all files of `supabase/tests`."""
    script = find_pgtap()
    if script is None or not shutil.which("pg_prove") or not shutil.which("psql"):
        print(f"pgTAP, pg_prove or psql is missing: {INSTALL}", file=sys.stderr)
        return 1
    with LocalSupabase() as stack:
        address, variables = split_password(stack.db_url)

        def environment(search_path: str) -> dict[str, str]:
            options = f"-c search_path={search_path} -c client_min_messages=warning"
            return {**variables, "PGOPTIONS": options}

        def psql(search_path: str, *arguments: str) -> int:
            options = ["-q", "-X", "-o", os.devnull, "-v", "ON_ERROR_STOP=1", "-d", address]
            return subprocess.run(
                ["psql", *options, *arguments],
                env=environment(search_path),
                timeout=TIMEOUT,
                check=False,
            ).returncode

        code = psql("", "-c", "create schema tap", "-c", "grant usage on schema tap to public")
        code = code or psql("tap", "-f", str(script))
        paths = [str(Path(file).resolve()) for file in files] or [str(TESTS)]
        return code or run_pgtap(paths, address, environment("public,extensions,tap"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
