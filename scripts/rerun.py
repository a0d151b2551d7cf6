"""Run each failed test once more, alone, to find flaky tests.

A test that passes the second time is printed as ``flaky: <test id>`` and does not fail the run. A
test that fails twice fails the run. If more than `MAX_RERUNS` tests fail, they probably fail for
one common reason, so none of them runs again.
"""

from collections.abc import Callable, Sequence

MAX_RERUNS = 20


def rerun_failed(failed: Sequence[str], passes_alone: Callable[[str], bool]) -> bool:
    """Run failed tests again, one after the other, and print the result of each.

    Args:
        failed: The ids of the tests that failed in the first run.
        passes_alone: A function that runs one test in a separate process and returns whether it
            passed.

    Returns:
        Whether every failed test passed the second time.
    """
    if len(failed) > MAX_RERUNS:
        print(f"{len(failed)} tests failed; above {MAX_RERUNS} none is run again", flush=True)
        return False
    print(f"Running {len(failed)} failed tests again, each alone", flush=True)
    passed_alone = {test: passes_alone(test) for test in failed}
    for test, passed in passed_alone.items():
        print(f"{'flaky' if passed else 'failed twice'}: {test}", flush=True)
    return all(passed_alone.values())
