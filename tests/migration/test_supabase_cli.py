"""The real Supabase CLI pushes the files of `picture-queue install`."""

import asyncio
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picture_queue._resources import Migration, migrations
from picture_queue.errors import InstallationRefused
from picture_queue.installation.database import migrate
from picture_queue.installation.folder import install

pytestmark = [pytest.mark.extra, pytest.mark.timeout(180)]
LATER = Migration("20990101000000_post_later.sql", "create table public.later ();\n")
Supabase = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["supabase_cli", "supabase_cli_3"])
def supabase(request: pytest.FixtureRequest, new_database: Any, tmp_path: Path) -> Supabase:
    """Return a function that calls the CLI in a new project, for this database."""
    (tmp_path / "supabase").mkdir()
    cli = request.getfixturevalue(request.param)
    # The embedded Postgres has no TLS, which the CLI requires by default.
    url = f"{new_database.url}?sslmode=disable"
    # Version 3 asks before it applies migrations, and fails without a terminal.
    target = (
        [f"--remote={url}", "--yes"] if request.param == "supabase_cli_3" else ["--db-url", url]
    )

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [cli, *args, *target],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path), "SUPABASE_TELEMETRY_DISABLED": "1"},
            stdin=subprocess.DEVNULL,
        )

    return call


def list_versions(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """Return the local and the remote version of each line of `migration list`."""
    assert done.returncode == 0, done.stderr
    return re.findall(r"^ *`([0-9 ]*)` *\| *`([0-9 ]*)`", done.stdout, re.M)


async def test_the_folder_is_pushed_and_listed(
    new_database: Any, supabase: Supabase, ship: Any, tmp_path: Path
) -> None:
    project = tmp_path / "supabase"
    first = [path.name[:14] for path in install(project, "0.1.0").written]
    assert list_versions(supabase("migration", "list")) == [(version, " ") for version in first]
    pushed = supabase("db", "push")
    assert pushed.returncode == 0, pushed.stderr
    assert list_versions(supabase("migration", "list")) == [(version, version) for version in first]
    assert await new_database.value("select enqueue_job('resize', '{}'::jsonb, 0)")
    # A migration of a later version comes after the one that the user added.
    user_migration = project / "migrations" / "20980101000000_mine.sql"
    user_migration.write_text("create table public.mine ();\n")
    ship(LATER)
    (new,) = install(project, "0.2.0").written
    pushed = supabase("db", "push")
    assert pushed.returncode == 0, pushed.stderr
    assert list_versions(supabase("migration", "list"))[-2:] == [
        ("20980101000000", "20980101000000"),
        (new.name[:14], new.name[:14]),
    ]
    # `migrate` recognises the tool and refuses the database.
    with pytest.raises(InstallationRefused, match="applied by `supabase db push`"):
        await asyncio.to_thread(migrate, new_database.settings, lambda name: None)


async def test_a_push_to_a_database_of_migrate_fails_with_a_hint(
    new_database: Any, supabase: Supabase, tmp_path: Path
) -> None:
    await asyncio.to_thread(migrate, new_database.settings, lambda name: None)
    install(tmp_path / "supabase", "0.1.0")
    pushed = supabase("db", "push")
    assert pushed.returncode != 0
    assert "picture-queue is in this database already" in pushed.stderr
    applied = "select count(*) from supabase_migrations.schema_migrations"
    assert await new_database.value(applied) == 0
    assert await new_database.rows("select name from picture_queue.migration") == [
        (file.name,) for file in migrations()
    ]
