"""Imports at the start of the program: heavy modules are loaded only on demand."""

import os
import subprocess
import sys

import pytest

HEAVY = {
    "asyncio",
    "rich.progress",
    "supabase",
    "httpx",
    "websockets",
    "realtime",
    "picture_queue.records",
    "picture_queue.local",
    "picture_queue.worker",
    "PIL",
    "psutil",
}
PROBE = """
import sys
from picture_queue_cli.app import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def run(*args: str, **environ: str) -> tuple[str, set[str]]:
    """Run the program; return its output and the modules that it loaded."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *args],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environ},
    )
    return result.stdout, set(result.stderr.split())


@pytest.mark.parametrize(
    "args", [("--help",), ("--version",), ("jobs", "list", "--help"), ("demo", "--help")]
)
def test_help_and_version_load_no_heavy_module(args: tuple[str, ...]) -> None:
    printed, loaded = run(*args)
    assert "picture-queue" in printed
    assert not HEAVY & loaded


def test_completion_offers_the_commands_without_heavy_imports() -> None:
    printed, loaded = run(
        _PICTURE_QUEUE_COMPLETE="complete_bash", COMP_WORDS="picture-queue jobs ", COMP_CWORD="2"
    )
    assert printed.split() == ["list", "show", "history", "reasons", "cancel", "retry", "discard"]
    assert not HEAVY & loaded


def test_completion_offers_the_models() -> None:
    printed, _ = run(
        _PICTURE_QUEUE_COMPLETE="complete_bash",
        COMP_WORDS="picture-queue generate x --model black-forest-labs/flux-sch",
        COMP_CWORD="4",
    )
    assert printed.split() == ["black-forest-labs/flux-schnell"]
