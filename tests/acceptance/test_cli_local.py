"""``picture-queue local``: started, used without any setting, stopped, deleted."""

import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

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
    "DATA_DIR",
    "POSTGRES",
    "POSTGREST",
}


def refused(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr


def answered_with(word: str, home: dict[str, str], *args: str) -> int:
    """Calls the program at a terminal, types a word, and returns the exit code."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{word}\n".encode())
        return subprocess.run(
            [sys.executable, "-m", "picture_queue_cli", *args],
            env=home,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
        ).returncode
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_stack_runs_from_start_to_stop(program: Program, home: dict[str, str]) -> None:
    started = program("local", "start", "--port", "0", "--no-worker", "--json")
    assert started.returncode == 0, started.stderr
    status = json.loads(started.stdout)
    assert status.keys() == FIELDS
    assert Path(status["DATA_DIR"]).is_relative_to(home["XDG_DATA_HOME"])
    try:
        assert json.loads(program("local", "status", "--json").stdout) == status
        shown = program("local", "status").stdout
        assert all(value in shown for value in status.values())
        refused(program("local", "start"), 9, "A stack is already running")

        listed = program("jobs", "list", "--json")
        assert (listed.returncode, json.loads(listed.stdout)) == (0, [])
        assert listed.stderr == f"Using the embedded stack at {status['API_URL']}\n"
        healthy = program("health")
        assert "No worker is running. Start one: picture-queue worker" in healthy.stdout
    finally:
        stopped = program("local", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert "data is kept" in stopped.stderr
    with pytest.raises(httpx.ConnectError):
        httpx.get(status["API_URL"], timeout=5)

    refused(program("local", "stop"), 6, "picture-queue local start")
    refused(program("local", "status"), 6, "picture-queue local start")
    refused(program("jobs", "list"), 2, "picture-queue local start")

    refused(program("local", "reset"), 2, "--yes")
    assert answered_with("n", home, "local", "reset") == 1
    assert Path(status["DATA_DIR"], "postgres").exists()
    assert program("local", "reset", "--yes").returncode == 0
    assert not Path(status["DATA_DIR"]).exists()


def test_a_port_that_is_taken_is_named(program: Program, home: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused(program("local", "start", "--port", port), 9, f"Port {port} is taken")
    refused(program("local", "status"), 6, "No stack is running")


def test_a_directory_that_cannot_be_made_is_named(program: Program) -> None:
    refused(program("local", "start", "--data-dir", "/dev/null/x"), 10, "/dev/null")


def test_a_start_for_people_says_what_to_do_next(program: Program, tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path))
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o077 == 0:
            directory.chmod(0o711)  # whoever runs Postgres has to pass
    done = program("local", "start", "--port", "0", "--no-worker", *place)
    try:
        assert done.returncode == 0, done.stderr
        assert "export SUPABASE_URL=http://127.0.0.1:" in done.stdout
        assert "export SUPABASE_KEY=sb_secret_" in done.stdout
        assert f"Stop it with: picture-queue local stop --data-dir {tmp_path}" in done.stderr
    finally:
        assert program("local", "stop", *place).returncode == 0
