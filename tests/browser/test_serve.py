"""`npm start` in the browser example finds the project, or prints which setting is missing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from picture_queue.local import stack as local
from picture_queue.local.stack import LocalSupabase

pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(site_copy, node):
    def start(**environment: str) -> subprocess.Popen[str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SUPABASE_", "PORT"))
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
        return subprocess.Popen(
            [node, "serve.mjs"],
            cwd=site_copy,
            env=inherited | {"PATH": path, "PORT": "0"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def data_home() -> Iterator[Path]:
    """A directory that the service user can reach, unlike the directories of pytest."""
    path = local._temporary_directory()
    yield path
    shutil.rmtree(path)


def test_the_example_finds_the_embedded_stack(serve, data_home):
    with LocalSupabase(data_home / "picture-queue" / "local", durable=False) as stack:
        with serve(XDG_DATA_HOME=str(data_home)) as server:
            lines = [server.stdout.readline() for _ in range(3)]
            addresses = [line.split()[-1] for line in lines[1:]]
            pages = [httpx.get(address).status_code for address in addresses]
            server.terminate()
        assert lines[0] == f"Pictures of {stack.api_url}\n"
        # The address must not be `localhost`: another user may listen on the same port of ::1.
        assert all(address.startswith("http://127.0.0.1:") for address in addresses)
        assert pages == [200, 200]


def test_the_example_prints_how_to_start_a_missing_stack(serve, tmp_path):
    with serve(XDG_DATA_HOME=str(tmp_path)) as server:
        _, stderr = server.communicate(timeout=30)
    assert server.returncode == 1
    assert "picture-queue local start" in stderr and "Error" not in stderr


def test_the_example_accepts_the_variables_of_local_env(serve):
    api = "http://127.0.0.1:1"
    with serve(SUPABASE_URL=api, API_URL=api, PUBLISHABLE_KEY="sb_publishable_x") as server:
        first = server.stdout.readline()
        server.terminate()
    assert first == f"Pictures of {api}\n"


def test_the_key_of_another_stack_is_not_used(serve):
    api = "http://127.0.0.1:1"
    with serve(SUPABASE_URL="https://x.supabase.co", API_URL=api, PUBLISHABLE_KEY="x") as server:
        _, stderr = server.communicate(timeout=30)
    assert server.returncode == 1
    assert "set SUPABASE_PUBLISHABLE_KEY" in stderr


def test_an_address_without_a_key_is_refused(serve):
    with serve(SUPABASE_URL="https://x.supabase.co") as server:
        _, stderr = server.communicate(timeout=30)
    assert server.returncode == 1
    assert "set SUPABASE_PUBLISHABLE_KEY" in stderr


def test_the_example_uses_the_tested_package_versions():
    example = json.loads((ROOT / "examples" / "browser" / "package.json").read_text("utf-8"))
    tested = json.loads((ROOT / "tests" / "npm" / "package.json").read_text("utf-8"))
    used = example["dependencies"] | example["devDependencies"]
    assert {name: version.lstrip("^") for name, version in used.items()} == {
        name: tested["dependencies"][name] for name in used
    }
