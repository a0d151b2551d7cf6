"""The examples, and the Python blocks of the README_BLOCKS, run unchanged on the embedded stack."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)


@pytest.fixture
def environment(stack):
    return {
        **os.environ,
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
        "REPLICATE_BASE_URL": stack.replicate_url,
        "REPLICATE_API_TOKEN": stack.replicate_token,
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def running_worker(environment, *options: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "picture_queue_cli", "worker", *options], env=environment, cwd=ROOT
    )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0


def run_example(environment, name: str, directory: Path) -> str:
    return run_code(environment, (ROOT / "examples" / name).read_text("utf-8"), directory)


def run_code(environment, code: str, directory: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_generate_saves_an_image(environment, tmp_path):
    with running_worker(environment):
        output = run_example(environment, "generate.py", tmp_path)
    assert "completed  100 %" in output
    (picture,) = tmp_path.glob("sunset.*")
    assert picture.stat().st_size > 100


def test_enqueue_gets_its_result_from_the_worker_app(environment, tmp_path):
    with running_worker(environment, "--app", "examples.worker_app:worker"):
        output = run_example(environment, "enqueue.py", tmp_path)
    assert output == "{'path': 'a.png', 'width': 256, 'attempt': 1}\n"


def test_the_first_block_of_the_readme_saves_an_image(environment, tmp_path):
    with running_worker(environment):
        output = run_code(environment, README_BLOCKS[0], tmp_path)
    assert output.splitlines()[-1] == "completed 100"
    assert (tmp_path / "lighthouse.webp").stat().st_size > 0


def test_the_other_blocks_of_the_readme_run_a_job(environment, tmp_path):
    handlers, enqueue = README_BLOCKS[1:]
    assert handlers.startswith("# jobs.py\n")
    (tmp_path / "jobs.py").write_text(handlers, "utf-8")
    with running_worker({**environment, "PYTHONPATH": str(tmp_path)}, "--app", "jobs:worker"):
        output = run_code(environment, enqueue, tmp_path)
    assert output == "{'width': 256}\n"


def test_no_two_examples_share_a_job_type():
    # The tests run all examples on one project, and a worker overwrites the policy of its job
    # types when it starts.
    job_types = [
        job_type
        for file in sorted((ROOT / "examples").rglob("*.py"))
        for job_type in re.findall(r"\.handler\(\s*\"([^\"]+)", file.read_text("utf-8"))
    ]
    assert len(job_types) > 5
    assert sorted(job_types) == sorted(set(job_types))


def test_every_example_is_tested():
    # test_howto.py tests the directory howto.
    tested = {"generate.py", "enqueue.py", "worker_app.py"}
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == tested
