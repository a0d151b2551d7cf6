"""Run pytest, then each failed test once more in a separate process.

``python scripts/run_tests.py [ARGUMENT OF PYTEST …]``. The exit code is 0 if every test passed in
the first or the second run (see `rerun`). After a crash, a collection error, coverage below its
bound or ``--maxfail`` the run fails, and no test is run again.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rerun import rerun_failed

RERUN_TIMEOUT = 300  # seconds; each test has a shorter timeout


class FailureRecorder:
    """A pytest plugin that collects the failures of a run, including those in workers of xdist."""

    def __init__(self) -> None:
        self.root = Path()
        self.tests: list[str] = []
        self._test_failures = 0
        self._crashed = False
        self._has_other_failures = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the failure of a test, or of its setup or teardown."""
        if not report.failed or hasattr(report, "wasxfail"):
            return
        self._test_failures += 1
        # xdist reports the phase "???" for the test during which an xdist worker died.
        self._crashed = self._crashed or str(report.when) == "???"
        if report.nodeid not in self.tests:
            self.tests.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Detect failures that are not reported for a test, such as a collection error."""
        self.root = session.config.rootpath
        self._has_other_failures = session.testsfailed != self._test_failures or bool(
            session.shouldfail
        )

    @property
    def only_tests_failed(self) -> bool:
        """True if tests failed, without a crash, a collection error or low coverage."""
        return bool(self.tests) and not self._crashed and not self._has_other_failures


def main(arguments: list[str]) -> int:
    """Run pytest with these arguments, then the failed tests alone."""
    # A copy from before pytest-cov changes the environment, so that the second run measures no
    # coverage.
    environment = dict(os.environ)
    recorder = FailureRecorder()
    code = int(pytest.main(arguments, plugins=[recorder]))
    if code != pytest.ExitCode.TESTS_FAILED or not recorder.only_tests_failed:
        return code

    def passes_alone(test: str) -> bool:
        # -P keeps the working directory out of sys.path, as in the first run. The empty -m
        # overrides the default expression, which could deselect the test.
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-m", "", test]
        try:
            process = subprocess.run(
                command, cwd=recorder.root, env=environment, timeout=RERUN_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return process.returncode == 0

    return 0 if rerun_failed(recorder.tests, passes_alone) else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
