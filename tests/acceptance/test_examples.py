"""The examples run as they stand, against the embedded stack."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(stack):
    return {
        **os.environ,
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
        "REPLICATE_BASE_URL": stack.replicate_url,
        "REPLICATE_API_TOKEN": "r8_simulator",
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def worker(environment, *options: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "picture_queue_cli", "worker", *options], env=environment, cwd=ROOT
    )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0


def run(environment, name: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_saves_a_picture(environment, tmp_path):
    with worker(environment):
        output = run(environment, "generate.py", tmp_path)
    assert "completed  100 %" in output
    (picture,) = tmp_path.glob("sunset.*")
    assert picture.stat().st_size > 100


def test_enqueue_gets_its_result_from_the_worker_app(environment, tmp_path):
    with worker(environment, "--app", "examples.worker_app:worker"):
        output = run(environment, "enqueue.py", tmp_path)
    assert output == "{'path': 'a.png', 'width': 256, 'attempt': 1}\n"


def test_no_two_examples_serve_one_job_type():
    # They share a project here, where a type has one policy: that of the worker started last.
    types = [
        found
        for file in sorted((ROOT / "examples").rglob("*.py"))
        for found in re.findall(r"\.handler\(\s*\"([^\"]+)", file.read_text("utf-8"))
    ]
    assert len(types) > 5
    assert sorted(types) == sorted(set(types))


def test_every_example_is_tested():
    tested = {"generate.py", "enqueue.py", "worker_app.py"}  # howto: test_howto.py
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == tested
