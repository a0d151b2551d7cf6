"""Installing on the command line: the project's folder, its database, the doctor's word on both."""

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Cli = Callable[..., Result]


def test_install_prints_what_it_wrote_and_says_what_comes_next(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    done = cli("install")
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    assert Path(line).is_file()
    assert "supabase db push" in done.stderr
    again = cli("install", "--json")
    found = json.loads(again.stdout)
    assert (found["written"], found["present"], found["edited"]) == ([], [line], [])
    Path(line).write_text("-- mine now\n")
    edited = cli("install")
    assert (edited.exit_code, edited.stdout) == (0, "")
    assert f"! {line} is not as it was installed" in edited.stderr


def test_install_without_a_project_says_what_to_do(cli: Cli) -> None:
    done = cli("install")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "supabase init" in done.stderr
