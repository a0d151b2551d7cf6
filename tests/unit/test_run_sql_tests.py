"""scripts/test_sql.py runs a pgTAP file that failed once more, without other files beside it."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

PASSES = "\\echo 1..1\n\\echo ok 1\n"
FAILS = "\\echo 1..1\n\\echo not ok 1\n"
FLAKY = "\\echo 1..1\n\\! test -e {marker} && echo ok 1 || echo not ok 1; touch {marker}\n"

pytestmark = pytest.mark.extra


@pytest.fixture
def prove(stack, tmp_path, monkeypatch, capfd):
    """Return a function that runs pgTAP files.

    It returns the exit code, and for each file that failed at first: `flaky` or `failed twice`.
    """
    if not shutil.which("pg_prove"):
        pytest.fail(
            "pg_prove is missing: apt-get install libtap-parser-sourcehandler-pgtap-perl",
            pytrace=False,
        )
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    spec = importlib.util.spec_from_file_location("test_sql_script", SCRIPTS / "test_sql.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def prove(**files):
        directory = tmp_path / "tests"
        directory.mkdir()
        for name, text in files.items():
            text = text.format(marker=tmp_path / "failed-before")
            (directory / f"{name}.sql").write_text(text)
        code = script.run_pgtap([str(directory)], stack.db_url, os.environ)
        lines = capfd.readouterr().out.splitlines()
        verdicts = [line for line in lines if line.startswith(("flaky:", "failed twice:"))]
        return code, [(line.partition(":")[0], Path(line).name) for line in verdicts]

    return prove


def test_a_file_that_passes_alone_is_reported_as_flaky(prove):
    assert prove(a=PASSES, b=FLAKY) == (0, [("flaky", "b.sql")])


def test_a_file_that_fails_twice_fails_the_run(prove):
    code, verdicts = prove(a=FAILS, b=FLAKY)
    assert code != 0
    assert verdicts == [("failed twice", "a.sql"), ("flaky", "b.sql")]


def test_files_that_pass_are_not_run_again(prove):
    assert prove(a=PASSES) == (0, [])
