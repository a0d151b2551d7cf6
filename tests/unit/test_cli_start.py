"""``picture-queue`` loads modules that take long to import only when a command needs them."""

import os
import subprocess
import sys

import pytest

#: Modules that take long to import.
SLOW_MODULES = {
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
#: Runs the program, and then prints the names of all loaded modules.
PRINT_MODULES = """
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
        [sys.executable, "-c", PRINT_MODULES, *args],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environ},
    )
    return result.stdout, set(result.stderr.split())


@pytest.mark.parametrize(
    "args", [("--help",), ("--version",), ("jobs", "list", "--help"), ("demo", "--help")]
)
def test_help_and_version_load_no_slow_module(args: tuple[str, ...]) -> None:
    printed, loaded = run(*args)
    assert "picture-queue" in printed
    assert not SLOW_MODULES & loaded


def test_shell_completion_offers_the_commands_and_loads_no_slow_module() -> None:
    printed, loaded = run(
        _PICTURE_QUEUE_COMPLETE="complete_bash", COMP_WORDS="picture-queue jobs ", COMP_CWORD="2"
    )
    assert printed.split() == ["list", "show", "history", "reasons", "cancel", "retry", "discard"]
    assert not SLOW_MODULES & loaded


def test_shell_completion_offers_the_models() -> None:
    printed, _ = run(
        _PICTURE_QUEUE_COMPLETE="complete_bash",
        COMP_WORDS="picture-queue generate x --model black-forest-labs/flux-sch",
        COMP_CWORD="4",
    )
    assert printed.split() == ["black-forest-labs/flux-schnell"]
