"""``make conformance``: every case over every way in; prints the matrix, or with JSON=1 a document.

Fails when a way answers otherwise than expected, or than plain HTTP does.
"""

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from picture_queue.local.stack import LocalSupabase
from tests.conformance import pooler
from tests.conformance.matrix.javascript import Chromium, Node
from tests.conformance.matrix.ours import ours
from tests.conformance.matrix.project import Project, project_of
from tests.conformance.matrix.report import as_json, show
from tests.conformance.matrix.run import Column, compare, run
from tests.conformance.matrix.ways import Asyncpg, Httpx, Psycopg, SupabaseAsync, SupabaseSync, Way
from tests.conftest import RemoteStack

_MODULES = Path(__file__).parent.parent / "npm" / "node_modules"
_NO_DATABASE = "set PICTURE_QUEUE_TEST_DB_URL: it goes to the database itself"


def main() -> int:
    """Run the matrix and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a document for machines")
    wants_json = parser.parse_args().json
    with ExitStack() as open_:
        project = project_of(open_.enter_context(_stack()))
        open_.callback(project.close)
        ways, absent = _ways(project, open_)
        columns = _run(project, ways)
    if wants_json:
        print(as_json(columns, absent))
    else:
        show(columns, absent, Console(width=None if sys.stdout.isatty() else 200))
    return int(any(column.problems for column in columns))


@contextmanager
def _stack() -> Iterator[Any]:
    if os.environ.get("PICTURE_QUEUE_TEST_URL"):
        yield RemoteStack()
        return
    with LocalSupabase() as stack:
        yield stack


def _ways(project: Project, open_: ExitStack) -> tuple[list[Way], dict[str, str]]:
    """The ways that can be gone, plain HTTP first, and why the others cannot."""
    direct: list[Way] = [Psycopg(), Asyncpg()]
    absent = {}
    if project.database:
        address = open_.enter_context(pooler.pooled(project.database))
        direct.append(Psycopg("pgbouncer", address))
    else:
        names = [way.name for way in (*direct, *ours(direct=True))]
        absent = dict.fromkeys([*names, "pgbouncer"], _NO_DATABASE)
        direct = []
    return [
        Httpx(),
        SupabaseAsync(),
        SupabaseSync(),
        Node(_program("node", "apt-get install nodejs npm"), _MODULES),
        Chromium(_program("chromium", "apt-get install chromium"), _MODULES),
        *direct,
        *ours(direct=False),
        *(ours(direct=True) if project.database else ()),
    ], absent


def _program(name: str, install: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: {install}")
    return found


def _run(project: Project, ways: list[Way]) -> list[Column]:
    columns: list[Column] = []
    told = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*told, console=Console(stderr=True), transient=True) as progress:
        for way in ways:
            task = progress.add_task(way.name)
            columns.append(asyncio.run(run(project, way)))
            compare(columns[-1], columns[0])
            progress.remove_task(task)
    return columns


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (pytest.fail.Exception, FileNotFoundError, AssertionError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
