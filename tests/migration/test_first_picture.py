"""The five steps of docs/supabase.md lead to a picture in a new project.

The project has only a URL, a key and a database.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from picture_queue.local.stack import LocalSupabase
from picture_queue.settings import KEY_VARIABLES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "first_picture.sh"
STEPS = ["The project", "The SQL", "Events and maintenance", "A worker", "A picture"]

pytestmark = pytest.mark.timeout(240)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project() -> Iterator[LocalSupabase]:
    """A new Supabase project without our migrations."""
    with LocalSupabase(migrations=False, replicate_seconds=0.3) as stack:
        yield stack


@pytest.fixture
def run(project: LocalSupabase, tmp_path: Path) -> Run:
    """Return a function that runs the script, by default without the Supabase CLI."""
    unset = {*KEY_VARIABLES, "SUPABASE_ACCESS_TOKEN"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    programs = Path(sys.executable).parent

    def call(path: str = "/usr/bin:/bin", key: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", SCRIPT],
            cwd=tmp_path,
            env=inherited
            | {
                "PATH": f"{programs}:{path}",
                "HOME": str(tmp_path),
                "SUPABASE_URL": project.api_url,
                "SUPABASE_KEY": key or project.secret_key,
                "PICTURE_QUEUE_DATABASE_URL": f"{project.db_url}?sslmode=disable",
                "REPLICATE_API_TOKEN": project.replicate_token,
                "REPLICATE_BASE_URL": project.replicate_url,
            },
            capture_output=True,
            text=True,
            timeout=220,
            stdin=subprocess.DEVNULL,
        )

    return call


def expect_image(done: subprocess.CompletedProcess[str], directory: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^\d\. (.*)$", done.stdout, re.M) == STEPS
    assert not re.search(r"^bad ", done.stdout, re.M), done.stdout
    (picture,) = [path for path in directory.rglob("*") if path.suffix in {".webp", ".png", ".jpg"}]
    assert picture.stat().st_size > 1000  # bytes


def test_the_five_steps_produce_an_image(run: Run, project: LocalSupabase, tmp_path: Path) -> None:
    expect_image(run(), tmp_path)
    # A second run applies no migration again.
    again = run(key=project.service_role_key)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Nothing to apply" in again.stderr


@pytest.mark.extra
def test_the_five_steps_also_work_with_the_supabase_cli(
    run: Run, project: LocalSupabase, node: str, supabase_cli: Path, tmp_path: Path
) -> None:
    expect_image(run(f"{supabase_cli.parent}:{Path(node).parent}:/usr/bin:/bin"), tmp_path)
    query = "select count(*) from supabase_migrations.schema_migrations"
    assert asyncio.run(_fetch_value(project.db_url, query)) == 1


def test_the_page_and_the_script_have_the_same_steps() -> None:
    page = (ROOT / "docs" / "supabase.md").read_text("utf-8")
    assert re.findall(r"^### \d\. (.*)$", page, re.M) == STEPS
    commands = re.findall(r"^picture-queue (\w+)", page, re.M)
    assert set(re.findall(r"picture-queue (\w+)", SCRIPT.read_text("utf-8"))) <= set(commands)


async def _fetch_value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close(timeout=5)
