"""`picture-queue install` and `migrate`: their output, hints and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

from picture_queue._resources import migrations

Cli = Callable[..., Result]


def test_install_prints_its_files_and_the_next_step(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    done = cli("install")
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    assert Path(line).is_file()
    assert "supabase db push" in done.stderr
    again = cli("install", "--json")
    result = json.loads(again.stdout)
    assert (result["written"], result["present"], result["edited"]) == ([], [line], [])
    Path(line).write_text("-- edited by the user\n")
    edited = cli("install")
    assert (edited.exit_code, edited.stdout) == (0, "")
    assert f"! {line} was edited" in edited.stderr


def test_install_without_a_project_prints_a_hint(cli: Cli) -> None:
    done = cli("install")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "supabase init" in done.stderr


def test_migrate_refuses_a_database_of_the_embedded_stack(cli: Cli, stack: Any) -> None:
    done = cli("migrate", PICTURE_QUEUE_DATABASE_URL=stack.db_url)
    assert (done.exit_code, done.stdout) == (9, "")
    assert "picture-queue local start" in done.stderr


def test_migrate_prints_its_plan_and_its_result(cli: Cli, new_database: Any) -> None:
    names = [file.name for file in migrations()]
    preview = cli("migrate", "--db-url", new_database.url, "--preview")
    assert (preview.exit_code, preview.stdout.split()) == (0, names)
    done = cli("migrate", "--db-url", new_database.url)
    assert (done.exit_code, done.stdout.split()) == (0, names)
    assert "Next: picture-queue doctor" in done.stderr
    again = cli("migrate", "--db-url", new_database.url, "--json")
    assert json.loads(again.stdout) == {"applied": []}


def test_install_refuses_a_database_that_migrate_has_set_up(
    cli: Cli, new_database: Any, tmp_path: Path
) -> None:
    (tmp_path / "supabase").mkdir()
    assert cli("migrate", "--db-url", new_database.url).exit_code == 0
    done = cli("install", "--db-url", new_database.url)
    assert (done.exit_code, done.stdout) == (9, "")
    assert "Use: picture-queue migrate" in done.stderr
    assert not (tmp_path / "supabase" / "migrations").exists()


def test_migrate_without_a_database_url_prints_a_hint(cli: Cli) -> None:
    done = cli("migrate")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--db-url" in done.stderr
