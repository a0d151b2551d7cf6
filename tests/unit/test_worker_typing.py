"""Errors and inferred types that mypy reports for the handler decorator."""

import subprocess
import sys
from pathlib import Path

SNIPPET = """
from picture_queue import JobContext, Worker

worker = Worker()

@worker.handler
async def without_parentheses() -> None: ...

@worker.handler("resize")
async def resize(payload: dict[str, int], job: JobContext) -> int:
    return payload["width"] if job.stop_requested else 0

reveal_type(resize)
"""


def test_mypy_finds_a_decorator_without_parentheses(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", snippet],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    errors = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, result.stdout + result.stderr
    assert "snippet.py:6: error:" in errors[0]
    assert "[arg-type]" in errors[0]
    assert 'expected "str"' in errors[0]
    assert "def (payload: dict[str, int], job: picture_queue.worker.context.JobContext)" in (
        result.stdout.replace("builtins.", "").replace('Revealed type is "', "")
    )
