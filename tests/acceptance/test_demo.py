"""``picture-queue demo`` starts a stack, generates an image, and stops everything."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Program = Callable[..., subprocess.CompletedProcess[str]]
DEMO = [sys.executable, "-m", "picture_queue_cli", "demo"]

pytestmark = pytest.mark.timeout(120)


def parse_report(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON report of a demo, and check that its generation was completed."""
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert (report["status"], report["error"]) == ("completed", None)
    assert report["replicate"] == "simulator"
    assert report["events"][-1]["status"] == "completed"
    versions = [event["version"] for event in report["events"]]
    assert versions == sorted(set(versions))
    return report


def is_stopped(program: Program) -> bool:
    return program("local", "status").returncode == 6


def test_the_demo_shows_live_states_saves_an_image_and_stops_everything(
    program: Program, tmp_path: Path
) -> None:
    result = program("demo", "--json", timeout=100)
    report = parse_report(result)
    with Image.open(tmp_path / report["picture"]) as picture:
        assert picture.size == (1024, 1024)

    live_events = [event for event in report["events"] if event["source"] == "socket"]
    assert len(live_events) >= 3
    assert live_events[-1]["status"] == "completed"
    times = [event["at_ms"] for event in report["events"]]
    assert times == sorted(times)
    timeline = report["timeline"]
    order = ["answered", "claimed", "first_progress", "stored", "completed", "saved"]
    assert sorted(timeline, key=order.index) == order
    timeline_ms = [timeline[name]["ms"] for name in order]
    assert timeline_ms == sorted(timeline_ms)
    assert timeline["answered"]["source"] == "answer"
    assert timeline["completed"]["source"] == "socket"

    assert "signed up" in result.stderr
    assert "simulator" in result.stderr
    assert is_stopped(program)


def interrupt_demo(user_environment: dict[str, str], directory: Path) -> None:
    """Run the demo and press Ctrl-C after the generation has started."""
    process = subprocess.Popen(
        DEMO,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=user_environment,
        cwd=directory,
    )
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "Generation" in line:
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, ""), [*lines, stderr]
    assert stderr.splitlines()[-1] == "error: Interrupted."
    assert "Traceback" not in stderr


def test_a_kept_stack_is_reused_by_a_demo_without_realtime(
    program: Program, user_environment: dict[str, str], tmp_path: Path
) -> None:
    first_run = program("demo", "--keep", "--json", timeout=100)
    try:
        status = parse_report(first_run)["stack"]
        assert json.loads(program("local", "status", "--json").stdout) == status

        without_socket = program("demo", "--cut-socket", "--json", timeout=100)
        report = parse_report(without_socket)
        assert "stack" not in report
        assert "left running" in without_socket.stderr
        assert report["events"][-1]["source"] in ("poll", "snapshot")

        interrupt_demo(user_environment, tmp_path)
        assert not is_stopped(program)
        (newest, *_) = json.loads(program("jobs", "list", "--json").stdout)
        assert newest["status"] == "cancelled" or newest["cancel_requested_at"]
    finally:
        assert program("local", "stop").returncode == 0


def test_ctrl_c_stops_everything(
    program: Program, user_environment: dict[str, str], tmp_path: Path
) -> None:
    interrupt_demo(user_environment, tmp_path)
    assert is_stopped(program)


def test_a_terminal_shows_progress_bar_image_and_times(
    program: Program, user_environment: dict[str, str], tmp_path: Path
) -> None:
    environ = {
        **user_environment,
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "COLUMNS": "100",
    }
    del environ["NO_COLOR"]
    controller, terminal_end = pty.openpty()
    process = subprocess.Popen(
        [*DEMO, "--model", "black-forest-labs/flux-schnell"],
        stdin=terminal_end,
        stdout=terminal_end,
        stderr=terminal_end,
        env=environ,
        cwd=tmp_path,
    )
    os.close(terminal_end)
    shown = read_all(controller, deadline=time.monotonic() + 100).decode()
    assert process.wait(timeout=30) == 0
    for part in ("━━━", "100 %", "▀", "outputs/", "answered", "claimed", "Everything is stopped"):
        assert part in shown
    assert is_stopped(program)


def read_all(terminal: int, deadline: float) -> bytes:
    """Read a terminal until the program at its other end exits."""
    shown = b""
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # The other end is closed.
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    return shown
