"""mypy accepts correct code that uses this library, and reports mistakes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: By name: the code of a snippet, and a part of the error that mypy must report. The part is empty
#: if mypy must report no error.
SNIPPETS = {
    "names": ("from picture_queue import AsyncPictureQueue, JobEvent, PictureQueue, Worker\n", ""),
    "misspelt_import": (
        "from picture_queue import PictureQeue\n",
        'Module "picture_queue" has no attribute "PictureQeue"',
    ),
    "names_by_module": (
        "from picture_queue.errors import JobNotFound\n"
        "from picture_queue.options import JobFilter\n"
        "from picture_queue.records import JobHistory\n",
        "",
    ),
    "misspelt_record": (
        "from picture_queue.records import JobHistry\n",
        'Module "picture_queue.records" has no attribute "JobHistry"',
    ),
    "misspelt_attribute": (
        "import picture_queue\npicture_queue.Snoose\n",
        'Module has no attribute "Snoose"',
    ),
    "misspelt_local_import": (
        "from picture_queue.local import LocalSuperbase\n",
        'Module "picture_queue.local" has no attribute "LocalSuperbase"',
    ),
    "watch": (
        """
from contextlib import closing
from picture_queue import PictureQueue

def watch(pq: PictureQueue, job_id: str) -> str:
    with closing(pq.jobs.watch(job_id, timeout=5)) as events:
        for event in events:
            if event.explanation is not None:
                return event.explanation.detail
    pq.generations.watch(job_id).close()
    return ""
""",
        "",
    ),
    "async_watch": (
        """
from contextlib import aclosing
from picture_queue import AsyncPictureQueue

async def watch(pq: AsyncPictureQueue, job_id: str) -> None:
    async with aclosing(pq.jobs.watch(job_id)) as events:
        async for event in events:
            print(event.status)
    await pq.generations.watch(job_id).aclose()
""",
        "",
    ),
    "unknown_field_of_an_event": (
        """
from picture_queue import PictureQueue

def watch(pq: PictureQueue) -> None:
    for event in pq.jobs.watch("x"):
        print(event.state)
""",
        '"JobEvent" has no attribute "state"',
    ),
}


@pytest.fixture(scope="module")
def mypy_messages(tmp_path_factory):
    """The errors that mypy reports for each snippet, from a single run of mypy."""
    folder = tmp_path_factory.mktemp("snippets")
    for name, (code, _) in SNIPPETS.items():
        (folder / f"{name}.py").write_text(code)
    process = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"]
        + [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache'}"]
        + ["--follow-imports=silent"]
        + [str(file) for file in sorted(folder.glob("*.py"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not process.stderr, process.stderr
    messages: dict[str, list[str]] = {name: [] for name in SNIPPETS}
    for line in process.stdout.splitlines():
        if match := re.match(r".*?(\w+)\.py:\d+: error: (.*)", line):
            messages[match[1]].append(match[2])
    return messages


@pytest.mark.timeout(600)  # mypy reads the whole library if its cache is empty.
@pytest.mark.parametrize("name", SNIPPETS)
def test_mypy_reports_exactly_the_expected_error(mypy_messages, name):
    _, expected = SNIPPETS[name]
    if expected:
        assert len(mypy_messages[name]) == 1
        assert expected in mypy_messages[name][0]
    else:
        assert mypy_messages[name] == []
