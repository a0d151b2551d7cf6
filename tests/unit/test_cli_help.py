"""The help of every command: short imperatives, and an example that can be parsed."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from picture_queue_cli.app import app

TERMINAL_WIDTH = 60
ROOT: Any = typer.main.get_command(app)
# A help text that begins with one of these words is no imperative.
NO_VERBS = {"a", "an", "the", "what", "which", "who", "how", "whether", "where", "if", "this"}


def commands() -> Iterator[tuple[list[str], Any]]:
    """Yield every command and group with the words of its command line."""
    unvisited: list[tuple[list[str], Any]] = [([], ROOT)]
    while unvisited:
        words, command = unvisited.pop()
        yield words, command
        unvisited += [
            ([*words, name], command) for name, command in getattr(command, "commands", {}).items()
        ]


ALL_COMMANDS = [
    pytest.param(words, command, id=" ".join(words) or "root") for words, command in commands()
]


@pytest.mark.parametrize(("words", "command"), ALL_COMMANDS)
def test_the_help_of_each_command_and_parameter_is_a_short_imperative(
    words: list[str], command: Any
) -> None:
    lines = [command.help.split("\n")[0], *(parameter.help for parameter in command.params)]
    for line in lines:
        if not line or "completion" in line:  # typer adds options for shell completion.
            continue
        assert len(line) < 60 and line[0].isupper() and line.endswith("."), line
        assert line.split()[0].lower() not in NO_VERBS, line


@pytest.mark.parametrize(("words", "command"), ALL_COMMANDS)
def test_help_fits_narrow_plain_terminals(words: list[str], command: Any) -> None:
    result = CliRunner().invoke(
        app, [*words, "--help"], prog_name="picture-queue", terminal_width=TERMINAL_WIDTH
    )
    assert result.exit_code == 0
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout
    assert "<" not in result.stdout, "the name of a Python type is shown"
    # The last line is the example. It is not wrapped, so that users can copy it.
    lines = result.stdout.rstrip().splitlines()[:-1]
    assert [line for line in lines if len(line) > TERMINAL_WIDTH] == []
    for parameter in command.params:
        if parameter.opts[0].startswith("-") and not parameter.hidden:
            assert max(parameter.opts, key=len) in result.stdout, "an option is truncated"


@pytest.mark.parametrize(("words", "command"), ALL_COMMANDS)
def test_help_ends_with_an_example_that_can_be_parsed(words: list[str], command: Any) -> None:
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="picture-queue")
    title, example = result.stdout.rstrip().split("\n")[-2:]
    assert title == "Example:"
    match = re.fullmatch(r'(?:eval "\$\()?picture-queue (.*?)(?:\)")?', example.strip())
    assert match, example
    arguments = shlex.split(match[1])
    assert arguments[: len(words)] == words
    command = ROOT
    while hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context("example", arguments)  # Raises an error if the example is invalid.


def test_help_is_plain_in_an_ascii_locale() -> None:
    environ = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii:strict",
        "NO_COLOR": "1",
        "COLUMNS": str(TERMINAL_WIDTH),
    }
    result = subprocess.run(
        [sys.executable, "-m", "picture_queue_cli", "jobs", "cancel", "--help"],
        capture_output=True,
        timeout=60,
        env=environ,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.isascii() and b"--created-before TIME" in result.stdout
