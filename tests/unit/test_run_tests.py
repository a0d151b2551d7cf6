"""scripts/run_tests.py runs each failed test once more, alone; other errors fail the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

XDIST = ("-p", "xdist", "-n", "1")

PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert False\n"
# This test fails in the first process and passes in the second. The second process must not be a
# worker of xdist, and must not measure coverage.
FLAKY = """
import os, pathlib

def test_flaky():
    marker = pathlib.Path("failed-before")
    first = not marker.exists()
    marker.write_text("")
    assert not first
    assert "PYTEST_XDIST_WORKER" not in os.environ
    assert not os.environ.get("COVERAGE_PROCESS_CONFIG")
"""
FLAKY_TEARDOWN = """
import pathlib, pytest

@pytest.fixture
def fails_at_teardown():
    yield
    marker = pathlib.Path("failed-before")
    first = not marker.exists()
    marker.write_text("")
    assert not first

def test_teardown(fails_at_teardown): pass
"""
FLAKY_CRASH = """
import os, pathlib

def test_crash():
    marker = pathlib.Path("failed-before")
    if not marker.exists():
        marker.write_text("")
        os._exit(3)
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the script and returns its exit code and printed lines."""

    def run(*arguments, **files):
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\naddopts = -p no:cacheprovider -m 'not extra'\nmarkers = extra\n"
        )
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "COV_", "COVERAGE_"))
        }
        # Loading the plugins takes half of the start time.
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        result = subprocess.run(
            [sys.executable, SCRIPTS / "run_tests.py", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        return result.returncode, result.stdout.splitlines()

    return run


def get_verdicts(lines):
    return sorted(line for line in lines if line.startswith(("flaky:", "failed twice:")))


def was_rerun(lines):
    return any(line.startswith("Running ") for line in lines)


@pytest.mark.parametrize("parallel", [(), XDIST], ids=["plain", "xdist"])
def test_a_test_that_passes_alone_is_reported_as_flaky(run, parallel):
    code, lines = run(*parallel, test_a=PASSES, test_b=FLAKY)
    assert get_verdicts(lines) == ["flaky: test_b.py::test_flaky"]
    assert code == 0


@pytest.mark.parametrize("parallel", [(), XDIST], ids=["plain", "xdist"])
def test_a_test_that_fails_twice_fails_the_run(run, parallel):
    code, lines = run(*parallel, test_a=PASSES, test_b=FLAKY, test_c=FAILS)
    assert get_verdicts(lines) == [
        "failed twice: test_c.py::test_fails",
        "flaky: test_b.py::test_flaky",
    ]
    assert code == 1


def test_nothing_is_run_again_when_all_tests_pass(run):
    code, lines = run(test_a=PASSES)
    assert (code, was_rerun(lines)) == (0, False)


def test_a_failed_teardown_is_a_failure(run):
    code, lines = run(test_a=FLAKY_TEARDOWN)
    assert get_verdicts(lines) == ["flaky: test_a.py::test_teardown"]
    assert code == 0


def test_a_failed_test_that_a_marker_selected_runs_again(run):
    marked = "import pytest\npytestmark = pytest.mark.extra\n" + FLAKY
    code, lines = run("-m", "extra", test_a=marked, test_b=FAILS)
    assert get_verdicts(lines) == ["flaky: test_a.py::test_flaky"]
    assert code == 0


def test_the_id_of_a_parametrized_test_may_contain_any_character(run):
    text = (
        "import pathlib, pytest\n"
        "@pytest.mark.parametrize('value', ['a b::c[d]/e', 'é'])\n"
        "def test_flaky(value):\n"
        "    marker = pathlib.Path(f'seen-{len(value)}')\n"
        "    first = not marker.exists()\n"
        "    marker.write_text('')\n"
        "    assert not first\n"
    )
    code, lines = run(test_a=text)
    assert len(get_verdicts(lines)) == 2
    assert code == 0


def test_many_failures_are_not_run_again(run):
    text = "import pytest\n@pytest.mark.parametrize('i', range(21))\ndef test_it(i): assert False\n"
    code, lines = run(test_a=text)
    assert code == 1
    assert "21 tests failed; above 20 none is run again" in lines
    assert not was_rerun(lines)


def test_a_collection_error_fails_the_run(run):
    code, lines = run(test_a=FLAKY, test_b="import nothing_of_that_name\n")
    assert code == 2
    assert not was_rerun(lines)


def test_a_collection_error_fails_the_run_despite_a_flaky_test(run):
    code, lines = run(
        "--continue-on-collection-errors", test_a=FLAKY, test_b="import nothing_of_that_name\n"
    )
    assert code == 1
    assert not was_rerun(lines)


def test_a_crashed_worker_fails_the_run(run):
    code, lines = run(*XDIST, test_a=PASSES, test_b=FLAKY_CRASH)
    assert code == 1
    assert not was_rerun(lines)


def test_insufficient_coverage_fails_the_run_despite_a_flaky_test(run):
    code, lines = run(
        *("-p", "pytest_cov", "--cov=unused"),
        "--cov-fail-under=90",
        unused="def never():\n    print(1)\n    print(2)\n",
        test_a=FLAKY,
        test_b="import unused\n",
    )
    assert code == 1
    assert not was_rerun(lines)


def test_failed_tests_run_again_if_the_coverage_is_sufficient(run):
    code, lines = run(
        *("-p", "pytest_cov", "--cov=used"),
        "--cov-fail-under=90",
        used="x = 1\n",
        test_a=FLAKY + "import used\n",
    )
    assert get_verdicts(lines) == ["flaky: test_a.py::test_flaky"]
    assert code == 0


def test_a_run_that_stopped_early_fails(run):
    code, lines = run("-x", test_a=FLAKY, test_b=PASSES)
    assert code == 1
    assert not was_rerun(lines)


def test_a_run_without_tests_fails(run):
    code, _ = run()
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_an_unknown_option_fails_the_run():
    code = subprocess.run(
        [sys.executable, SCRIPTS / "run_tests.py", "--no-such-option"],
        capture_output=True,
        timeout=50,
        check=False,
    ).returncode
    assert code == pytest.ExitCode.USAGE_ERROR
