"""``picture-queue local``: a stack is started, used without any setting, stopped and deleted."""

import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from picture_queue.local import stack as local

Program = Callable[..., subprocess.CompletedProcess[str]]
FIELDS = {
    "API_URL",
    "DB_URL",
    "ANON_KEY",
    "SERVICE_ROLE_KEY",
    "PUBLISHABLE_KEY",
    "SECRET_KEY",
    "JWT_SECRET",
    "REPLICATE_URL",
    "REPLICATE_TOKEN",
    "DATA_DIR",
    "POSTGRES",
    "POSTGREST",
}


def expect_error(result: subprocess.CompletedProcess[str], code: int, expected: str) -> None:
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert expected in result.stderr


def run_with_answer(answer: str, user_environment: dict[str, str], *args: str) -> int:
    """Run ``picture-queue`` at a terminal, type the answer to its prompt; return the exit code."""
    controller, terminal = pty.openpty()
    try:
        os.write(controller, f"{answer}\n".encode())
        return subprocess.run(
            [sys.executable, "-m", "picture_queue_cli", *args],
            env=user_environment,
            stdin=terminal,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
        ).returncode
    finally:
        os.close(controller)
        os.close(terminal)


def test_a_stack_runs_from_start_to_stop(
    program: Program, user_environment: dict[str, str]
) -> None:
    started = program("local", "start", "--port", "0", "--no-worker", "--json")
    assert started.returncode == 0, started.stderr
    status = json.loads(started.stdout)
    assert status.keys() == FIELDS
    assert Path(status["DATA_DIR"]).is_relative_to(user_environment["XDG_DATA_HOME"])
    try:
        assert json.loads(program("local", "status", "--json").stdout) == status
        shown = program("local", "status").stdout
        assert all(value in shown for value in status.values())
        printed = program("local", "env").stdout.splitlines()
        assert f'export DB_URL="{status["DB_URL"]}"' in printed
        expect_error(program("local", "start"), 9, "A stack is already running")

        listed = program("jobs", "list", "--json")
        assert (listed.returncode, json.loads(listed.stdout)) == (0, [])
        assert listed.stderr == f"Using the embedded stack at {status['API_URL']}\n"
        health = program("health")
        assert "No worker is running. Start one: picture-queue worker" in health.stdout
    finally:
        stopped = program("local", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert "data is kept" in stopped.stderr
    with pytest.raises(httpx.ConnectError):
        httpx.get(status["API_URL"], timeout=5)

    expect_error(program("local", "stop"), 6, "picture-queue local start")
    for command in ("status", "env"):
        expect_error(program("local", command), 6, "picture-queue local start")
    expect_error(program("jobs", "list"), 2, "picture-queue local start")

    expect_error(program("local", "reset"), 2, "--yes")
    assert run_with_answer("n", user_environment, "local", "reset") == 1
    assert Path(status["DATA_DIR"], "postgres").exists()
    assert program("local", "reset", "--yes").returncode == 0
    assert not Path(status["DATA_DIR"]).exists()


@pytest.fixture
def new_directory() -> Iterator[Path]:
    """A new directory that the system user of Postgres can reach, unlike `tmp_path`."""
    path = local._temporary_directory()
    yield path
    local.reset(path)


def test_the_error_names_a_port_in_use(program: Program, user_environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        expect_error(program("local", "start", "--port", port), 9, f"Port {port} is taken")
    expect_error(program("local", "status"), 6, "No stack is running")


@pytest.mark.parametrize("origin", ["nonsense", "https://app.test/", "*", "null", "", "app.test"])
def test_the_error_names_a_malformed_origin(program: Program, origin: str) -> None:
    result = program("local", "start", "--port", "0", "--allow-origin", origin)
    expect_error(
        result, 2, f"--allow-origin: {origin!r} is not an origin like https://app.test:3000"
    )
    expect_error(program("local", "status"), 6, "No stack is running")


def test_the_error_names_a_directory_that_cannot_be_created(program: Program) -> None:
    expect_error(
        program("local", "start", "--data-dir", "/dev/null/x"), 2, "--data-dir: `/dev/null/x`"
    )


def test_a_start_without_json_prints_the_next_steps(program: Program, new_directory: Path) -> None:
    data_dir = ("--data-dir", str(new_directory))
    result = program("local", "start", "--port", "0", "--no-worker", *data_dir)
    try:
        assert result.returncode == 0, result.stderr
        assert "export SUPABASE_URL=http://127.0.0.1:" in result.stdout
        assert "export SUPABASE_KEY=sb_secret_" in result.stdout
        assert f"Stop it with: picture-queue local stop --data-dir {new_directory}" in result.stderr
    finally:
        assert program("local", "stop", *data_dir).returncode == 0
