"""``make conformance``: run every case over every interface; print the matrix, or JSON if JSON=1.

The command fails if an answer is not as expected, or differs from the answer of plain HTTP.
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
from tests.conformance.matrix.interfaces import (
    Asyncpg,
    Httpx,
    Interface,
    Psycopg,
    SupabaseAsync,
    SupabaseSync,
)
from tests.conformance.matrix.javascript import Chromium, Node
from tests.conformance.matrix.ours import our_clients
from tests.conformance.matrix.project import Project, open_project
from tests.conformance.matrix.report import as_json, print_matrix
from tests.conformance.matrix.run import Column, compare, run
from tests.conftest import RemoteStack

_MODULES = Path(__file__).parent.parent / "npm" / "node_modules"
_NO_DATABASE = "set PICTURE_QUEUE_TEST_DB_URL: this interface connects to the database directly"


def main() -> int:
    """Run the matrix and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    wants_json = parser.parse_args().json
    with ExitStack() as exit_stack:
        project = open_project(exit_stack.enter_context(_stack()))
        exit_stack.callback(project.close)
        interfaces, unavailable = _interfaces(project, exit_stack)
        columns = _run(project, interfaces)
    if wants_json:
        print(as_json(columns, unavailable))
    else:
        print_matrix(columns, unavailable, Console(width=None if sys.stdout.isatty() else 200))
    return int(any(column.problems for column in columns))


@contextmanager
def _stack() -> Iterator[Any]:
    if os.environ.get("PICTURE_QUEUE_TEST_URL"):
        yield RemoteStack()
        return
    with LocalSupabase() as stack:
        yield stack


def _interfaces(project: Project, exit_stack: ExitStack) -> tuple[list[Interface], dict[str, str]]:
    """Return the interfaces, and why each unavailable interface is unavailable.

    Plain HTTP comes first, because the others are compared with it.
    """
    direct: list[Interface] = [Psycopg(), Asyncpg()]
    unavailable = {}
    if project.database:
        address = exit_stack.enter_context(pooler.run_pgbouncer(project.database))
        direct.append(Psycopg("pgbouncer", address))
    else:
        names = [interface.name for interface in (*direct, *our_clients(direct=True))]
        unavailable = dict.fromkeys([*names, "pgbouncer"], _NO_DATABASE)
        direct = []
    return [
        Httpx(),
        SupabaseAsync(),
        SupabaseSync(),
        Node(_program("node", "apt-get install nodejs npm"), _MODULES),
        Chromium(_program("chromium", "apt-get install chromium"), _MODULES),
        *direct,
        *our_clients(direct=False),
        *(our_clients(direct=True) if project.database else ()),
    ], unavailable


def _program(name: str, install: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise FileNotFoundError(f"{name} is missing: {install}")
    return program


def _run(project: Project, interfaces: list[Interface]) -> list[Column]:
    columns: list[Column] = []
    progress_columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*progress_columns, console=Console(stderr=True), transient=True) as progress:
        for interface in interfaces:
            task = progress.add_task(interface.name)
            columns.append(asyncio.run(run(project, interface)))
            compare(columns[-1], columns[0])
            progress.remove_task(task)
    return columns


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (pytest.fail.Exception, FileNotFoundError, AssertionError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
