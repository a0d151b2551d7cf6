"""Fixtures that run ``picture-queue`` in this process or as a separate process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from picture_queue.local import stack as local
from picture_queue.settings import KEY_VARIABLES
from picture_queue_cli.app import app

Cli = Callable[..., Result]
Program = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = [sys.executable, "-m", "picture_queue_cli"]
#: Variables of the environment that the tests do not inherit.
UNSET = {
    name: None
    for name in (
        *KEY_VARIABLES,
        "SUPABASE_URL",
        "SUPABASE_ACCESS_TOKEN",
        "REPLICATE_API_TOKEN",
        "PICTURE_QUEUE_DATABASE_URL",
    )
}


@pytest.fixture
def cli(stack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs ``picture-queue`` in this process, with the stack's service key.

    Keyword arguments of the function are environment variables; None unsets a variable. ``input``
    is the standard input.
    """
    monkeypatch.chdir(tmp_path)

    def call(*args: str, input: str | None = None, **environ: str | None) -> Result:
        project = {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
        return CliRunner(env=UNSET | project | environ).invoke(
            app, args, input=input, prog_name="picture-queue"
        )

    return call


@pytest.fixture
def rpc(stack: Any) -> Callable[..., Any]:
    """Return a function that calls an SQL function with the service key."""

    def call(function: str, **params: Any) -> Any:
        answer = httpx.post(
            f"{stack.api_url}/rest/v1/rpc/{function}",
            json=params,
            headers={"apikey": stack.service_role_key},
            timeout=30,
        )
        return answer.raise_for_status().json()

    return call


@pytest.fixture(scope="module")
def user_environment() -> Iterator[dict[str, str]]:
    """The environment of a user who has configured no project, with a new data directory."""
    path = local._temporary_directory()
    inherited = {name: value for name, value in os.environ.items() if name not in UNSET}
    yield inherited | {"XDG_DATA_HOME": str(path), "NO_COLOR": "1"}
    local.reset(path / "picture-queue" / "local")
    for directory in (path / "picture-queue", path):
        if directory.exists():  # A subdirectory exists only if a test has started a stack.
            directory.rmdir()


@pytest.fixture
def program(user_environment: dict[str, str], tmp_path: Path) -> Program:
    """Return a function that runs ``picture-queue`` as a process, with `user_environment`."""

    def call(*args: str, timeout: float = 50, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *args],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=user_environment | environ,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
        )

    return call
