"""Invalid input causes a one-line error that names the field, before any request is sent."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.testing import CliRunner, Result

from picture_queue._visible import LogFormatter
from picture_queue.errors import SettingsError
from picture_queue.settings import KEY_VARIABLES, ReplicateSettings
from picture_queue_cli import render
from picture_queue_cli.app import app
from picture_queue_cli.worker import load_worker

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
DEEP_JSON = "[" * 3000 + "]" * 3000
NO_UTF8 = "boat \udcff"  # Python decodes the byte FF of an argument as the character U+DCFF.
SECRET = "postgres://user:s3cret@"
#: Variables that the program under test does not inherit.
UNSET = {
    name: None
    for name in (
        *KEY_VARIABLES,
        "SUPABASE_URL",
        "SUPABASE_ACCESS_TOKEN",
        "REPLICATE_API_TOKEN",
        "REPLICATE_BASE_URL",
        "PICTURE_QUEUE_DATABASE_URL",
    )
}


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def run_cli(*args: str, input: str | bytes | None = None, **environ: str | None) -> Result:
    runner = CliRunner(env=UNSET | environ)
    return runner.invoke(app, args, input=input, prog_name="picture-queue")


def expect_error(result: Result, code: int, *expected: str) -> None:
    """Check that the program printed a one-line error and exited with this code."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for part in expected:
        assert part in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        # JSON that is invalid, or that some parsers cannot read.
        (("enqueue", "x", '{"a":NaN}'), 3, ("PAYLOAD", "NaN")),
        (("enqueue", "x", '{"a":-Infinity}'), 3, ("PAYLOAD", "-Infinity")),
        (("enqueue", "x", '{"a":1e999}'), 3, ("PAYLOAD", "1e999", "above 1e308")),
        (("enqueue", "x", f'{{"a":{"9" * 5000}}}'), 3, ("PAYLOAD", "a number of 5000 digits")),
        (("enqueue", "x", r'{"t":"\ud83d"}'), 3, ("PAYLOAD", r"\ud83d", "an unpaired surrogate")),
        (("enqueue", "x", f'{{"a":{DEEP_JSON}}}'), 3, ("PAYLOAD", "nested too deeply")),
        (("enqueue", "x", "{}", "--metadata", '{"a":NaN}'), 3, ("--metadata", "NaN")),
        (
            ("enqueue", "x", "{}", "--metadata", ""),
            3,
            ("--metadata is not JSON: expecting value, found the end of the text.",),
        ),
        (("enqueue", "x", "@."), 3, ("PAYLOAD", ".: Is a directory")),
        (("jobs", "list", "--metadata", DEEP_JSON), 3, ("--metadata", "nested too deeply")),
        (("events", "send", "x", "NaN"), 3, ("PAYLOAD", "NaN")),
        (("schedules", "set", "x", "y", '{"a":NaN}', "--every", "1m"), 3, ("PAYLOAD", "NaN")),
        (("enqueue", "x", "{path: 1}"), 3, ("PAYLOAD is not JSON", "found 'path: 1}'")),
        (("batches", "enqueue", "x"), 3, ("JOBS is not JSON", "line 1", "found 'x'")),
        (("batches", "enqueue", "[1]"), 3, ("Item 1 of the list", "it is 1")),
        (("batches", "enqueue", '{"a":1}\n\n[2]'), 3, ("Line 3 of the list", "it is [2]")),
        (("batches", "enqueue", '{"a":NaN}'), 3, ("line 1", "NaN")),
        (("batches", "enqueue", "[]", "--callback", ""), 3, ("--callback is not JSON",)),
        # Text that is not UTF-8.
        (("generate", NO_UTF8), 3, ("PROMPT is 'boat", "not UTF-8")),
        (("enqueue", NO_UTF8), 3, ("JOB_TYPE is 'boat", "not UTF-8")),
        (("enqueue", "x", "--tag", NO_UTF8), 3, ("--tag is 'boat", "not UTF-8")),
        (("queues", "pause", NO_UTF8), 3, ("QUEUE is 'boat", "not UTF-8")),
        (("--url", NO_UTF8, "health"), 3, ("--url is 'boat", "not UTF-8")),
        (("migrate", "--db-url", NO_UTF8), 3, ("--db-url is not UTF-8 text",)),
        (("--key", NO_UTF8, "health"), 3, ("--key is not UTF-8 text",)),
        (("jobs", "show", NO_UTF8), 2, ("JOB_ID",)),
        # Numbers and times.
        (("tenants", "set", "x", "nan"), 2, ("WEIGHT: 'nan' is not a number",)),
        (("tenants", "set", "x", "1e999"), 2, ("WEIGHT: '1e999' is not a number",)),
        (("watch", UNKNOWN_ID, "--timeout", "inf"), 2, ("--timeout: 'inf' is not a duration",)),
        (("watch", UNKNOWN_ID, "--timeout", "0"), 2, ("--timeout: '0' is below 0.1s",)),
        (("generate", "x", "--timeout", "1w"), 2, ("--timeout: '1w' is not a duration",)),
        (("worker", "--lease", "nan"), 2, ("--lease: 'nan' is not a duration",)),
        (("worker", "--queue", "a=nan"), 2, ("--queue a=nan: the weight is not above 0",)),
        (("worker", "--queue", "a=0"), 2, ("--queue a=0: the weight is not above 0",)),
        (("worker", "--queue", "a", "--queue", "a"), 2, ("--queue a is given more than once",)),
        (("enqueue", "x", "--delay", "9" * 400), 2, ("--delay", "above ten years")),
        (("enqueue", "x", "--delay", "nan"), 2, ("--delay", "not a duration like 90s")),
        (("enqueue", "x", "--delay", ""), 2, ("--delay", "not a duration like 90s")),
        (("enqueue", "x", "--at", ""), 2, ("--at", "not a time like 2030")),
        (("jobs", "list", "--created-before", "9999-99-99"), 2, ("--created-before",)),
        (("queues", "pause", "x", "--for", "9" * 30 + "d"), 2, ("--for", "above ten years")),
        (("queues", "pause", "x", "--for", "1h", "--until", "2030-01-01"), 2, ("not both",)),
        (("queues", "pause", "x", "--for", "0"), 2, ("--for: '0' is below 0.1s",)),
        (("limits", "pause", "x", "--for", "0"), 2, ("--for: '0' is below 0.1s",)),
        (("limits", "set", "x", "--rate", "²/1m"), 2, ("--rate", "not a rate like 10/1m")),
        (("limits", "set", "x", "--rate", "9" * 5000 + "/1m"), 2, ("--rate", "not a rate")),
        (("limits", "set", "x", "--rate", "1/nan"), 2, ("--rate",)),
        (("limits", "set", "x"), 2, ("--max-running, --rate or both",)),
        (("limits", "set", "x", "--max-running", "9" * 30), 2, ("--max-running",)),
        (("queues", "workers", "--max", "9" * 5000), 2, ("--max",)),
        # Options that contradict each other.
        (("queues", "workers", "q", "--min", "10", "--max", "2"), 2, ("--min 10", "--max 2")),
        (
            ("schedules", "set", "x", "y", "--cron", "@daily", "--every", "1m"),
            2,
            ("either --cron or --every",),
        ),
        (("schedules", "set", "x", "y"), 2, ("either --cron or --every",)),
        (("schedules", "set", "x", "y", "--depends-on", UNKNOWN_ID), 2, ("No such option",)),
        # Blank names and values.
        (("--url", "", "health"), 2, ("--url: '' is blank",)),
        (("--key", " ", "health"), 2, ("--key: ' ' is blank",)),
        (("settings", "set", "max_attempts="), 2, ("max_attempts: '' is blank",)),
        (("schedules", "set", "x", "", "--every", "1m"), 2, ("JOB_TYPE: '' is blank",)),
        (("schedules", "set", "x", "y", "--cron", ""), 2, ("--cron: '' is blank",)),
        (("schedules", "set", "x", "y", "--every", "1m", "--timezone", ""), 2, ("--timezone: ''",)),
        (
            ("schedules", "set", "x", "y", "--every", "1m", "--timezone", "Europe/Berlin"),
            2,
            ("--timezone: it is only for --cron",),
        ),
        (("limits", "pause", ""), 2, ("KEY: '' is blank",)),
        (("limits", "delete", "\u00a0"), 2, ("KEY", "is blank")),
        (("queues", "pause", " "), 2, ("QUEUE: ' ' is blank",)),
        (("schedules", "delete", ""), 2, ("NAME: '' is blank",)),
        (("tenants", "set", "", "1"), 2, ("TENANT: '' is blank",)),
        (("worker", "--name", " "), 2, ("--name: ' ' is blank",)),
        (("migrate", "--db-url", " "), 2, ("No database is given", "--db-url")),
        # Files and directories.
        (("install", "--dir", "foo"), 2, ("error: `foo` is not a directory",)),
        (("generate", "x", "--out", "/dev/null"), 2, ("--out", "`/dev/null` is not a directory")),
        # An incomplete configuration.
        (("doctor", "--check", "migrations"), 2, ("--check migrations", "--db-url")),
        (("worker", "--app", "..:x"), 2, ("--app ..:x cannot be imported",)),
        (("jobs", "list"), 2, ("SUPABASE_URL is not set",)),
    ],
    ids=lambda value: (
        " ".join(map(str, value))[:50].encode("ascii", "replace").decode()
        if isinstance(value, tuple)
        else ""
    ),
)
def test_the_error_for_invalid_input_is_one_line_that_names_the_field(
    args: tuple[str, ...], code: int, expected: tuple[str, ...]
) -> None:
    expect_error(run_cli(*args), code, *expected)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SUPABASE_URL": "nonsense"}, ("SUPABASE_URL is 'nonsense'",)),
        ({"SUPABASE_URL": "http://"}, ("SUPABASE_URL is 'http:",)),
        ({"SUPABASE_URL": "http://[::1"}, ("SUPABASE_URL",)),
        ({"SUPABASE_URL": "http://x:port"}, ("SUPABASE_URL",)),
        ({"SUPABASE_URL": "http://a b"}, ("SUPABASE_URL",)),
        ({"SUPABASE_URL": "http://\udcff"}, ("SUPABASE_URL",)),
        ({"SUPABASE_URL": "http://x", "SUPABASE_KEY": "schlüssel"}, ("key", "printable ASCII")),
        ({"SUPABASE_URL": "http://x", "SUPABASE_KEY": "a\nb"}, ("key", "printable ASCII")),
        (
            {"SUPABASE_URL": "http://x", "SUPABASE_KEY": "a", "SUPABASE_ACCESS_TOKEN": "\x1b"},
            ("access token", "printable ASCII"),
        ),
        ({"SUPABASE_URL": "http://x", "ALL_PROXY": "socks5://127.0.0.1:1"}, ("ALL_PROXY",)),
        ({"SUPABASE_URL": "http://x", "ALL_PROXY": "nonsense://x"}, ("ALL_PROXY",)),
        ({"SUPABASE_URL": "http://x", "SSL_CERT_FILE": "/nowhere"}, ("SSL_CERT_FILE",)),
        ({"PICTURE_QUEUE_DATABASE_URL": "nonsense"}, ("PICTURE_QUEUE_DATABASE_URL",)),
        ({"PICTURE_QUEUE_DATABASE_URL": " "}, ("PICTURE_QUEUE_DATABASE_URL",)),
        ({"PICTURE_QUEUE_DATABASE_URL": f"{SECRET}[x"}, ("PICTURE_QUEUE_DATABASE_URL",)),
        ({"PICTURE_QUEUE_DATABASE_URL": "\udcff=x"}, ("PICTURE_QUEUE_DATABASE_URL",)),
        (
            {"PICTURE_QUEUE_DATABASE_URL": f"{SECRET}x", "SUPABASE_ACCESS_TOKEN": "x"},
            ("SUPABASE_ACCESS_TOKEN", "PICTURE_QUEUE_DATABASE_URL"),
        ),
    ],
    ids=lambda value: ascii(value)[:60] if isinstance(value, dict) else "",
)
def test_the_error_for_an_invalid_environment_variable_names_the_variable_in_one_line(
    environ: dict[str, str], expected: tuple[str, ...]
) -> None:
    for command in (("jobs", "list"), ("watch", UNKNOWN_ID)):
        result = run_cli(*command, **{"SUPABASE_KEY": "x", **environ})
        expect_error(result, 2, *expected)
    assert "s3cret" not in result.stderr


def test_the_error_for_a_time_outside_the_calendar_names_the_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        expect_error(run_cli("enqueue", "x", "--at", "0001-01-01"), 2, "--at", "0001-01-01")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_key_beside_a_database_address_is_refused() -> None:
    result = run_cli("--key", "x", "jobs", "list", PICTURE_QUEUE_DATABASE_URL=f"{SECRET}x")
    expect_error(result, 2, "--key", "PICTURE_QUEUE_DATABASE_URL", "--url")


@pytest.mark.parametrize(
    ("token", "url", "expected"),
    [
        (" ", "https://x", "REPLICATE_API_TOKEN"),
        ("é", "https://x", "REPLICATE_API_TOKEN"),
        ("x", "nonsense", "REPLICATE_BASE_URL is 'nonsense'"),
    ],
)
def test_the_error_for_an_invalid_replicate_setting_names_the_variable(
    token: str, url: str, expected: str
) -> None:
    with pytest.raises(SettingsError, match=expected):
        ReplicateSettings(token, url)


@pytest.mark.parametrize("command", [("enqueue", "x", "-"), ("batches", "enqueue", "-")])
def test_standard_input_that_is_not_utf8_is_refused(command: tuple[str, ...]) -> None:
    expect_error(
        run_cli(*command, input=b'{"a": "\xff"}'), 3, "standard input: it is not UTF-8 text"
    )


# --- Standard streams ---


def run_in_shell(*args: str, shell: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``picture-queue`` with arguments in a shell command, in place of ``{}``."""
    program = f"{sys.executable} -m picture_queue_cli {' '.join(args)}"
    inherited = {name: value for name, value in os.environ.items() if name not in UNSET}
    return subprocess.run(
        ["/bin/sh", "-c", shell.format(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env=inherited | environ,
    )


@pytest.mark.parametrize(
    ("args", "shell", "expected"),
    [
        (("--help",), "{} | head -1", ""),
        (("--version",), "{} >&-", ""),
        (("jobs", "list"), "{} <&- >&-", "SUPABASE_URL is not set"),
        (("enqueue", "x", "-"), "{} <&-", "PAYLOAD is not JSON"),
        (("--version",), "{} >/dev/full", "No space left on device"),
        (("jobs", "list"), "{} 2>&-", ""),
        (("--version",), "PYTHONIOENCODING=ascii {}", ""),
        (("queues", "purgé"), "PYTHONIOENCODING=ascii {}", r"purg\xe9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_closed_full_and_ascii_streams_cause_no_traceback(
    args: tuple[str, ...], shell: str, expected: str
) -> None:
    result = run_in_shell(*args, shell=shell)
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    assert expected in result.stderr
    assert result.stderr.count("\n") == (1 if expected else 0)


# --- The worker command and the user's module ---


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero. See broken.py, line 1"),
        ("def\n", "SyntaxError: invalid syntax. See broken.py, line 1"),
        ("import nowhere_to_be_found\n", "Install nowhere_to_be_found, which broken imports"),
    ],
)
def test_an_import_error_of_an_app_names_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: str
) -> None:
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(SettingsError) as caught:
        load_worker("broken:worker")
    assert expected in str(caught.value)


# --- Text from the database ---

#: Control characters of terminals, and markup of rich.
ATTACK = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eevil[/red][bold]"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eevil[/red][bold]"


@pytest.fixture
def read_output(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that returns the text printed since its last call."""
    return lambda: "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "show",
    [
        render.info,
        render.warn,
        render.print_line,
        lambda text: render.out().print(text),
        lambda text: render.out().print(render.pairs({"error": text})),
        lambda text: render.out().print(render.styled(text, "red")),
        lambda text: render.out().print(render.status_text("pending", text)),
    ],
)
def test_control_characters_are_escaped_and_markup_is_not_interpreted(
    read_output: Callable[[], str], show: Any
) -> None:
    show(ATTACK)
    printed = read_output()
    assert ESCAPED in printed
    assert not set("\x1b\x07\r\x9b\u202e") & set(printed)


def test_control_characters_in_an_error_are_escaped(read_output: Callable[[], str]) -> None:
    render.print_error(ATTACK)
    assert read_output() == f"error: {ESCAPED}\n".replace(r"\r", " ")


def test_a_long_argument_in_an_error_is_shortened_in_the_middle(
    read_output: Callable[[], str],
) -> None:
    render.print_error(f"No such thing: {'x' * 9000}. See: --help")
    printed = read_output()
    assert len(printed) < 1000
    assert printed.startswith("error: No such thing: xxx") and printed.endswith("See: --help\n")


def test_table_cells_are_not_interpreted_as_markup(read_output: Callable[[], str]) -> None:
    table = render.table("one", "two")
    table.add_row(ATTACK, render.styled(ATTACK))
    render.out().print(table)
    assert read_output().count(ESCAPED) == 2


def test_a_one_line_result_is_printed_on_one_line(read_output: Callable[[], str]) -> None:
    render.print_line("a\nb")
    assert read_output() == "a\\nb\n"


def test_control_characters_in_log_lines_are_escaped() -> None:
    record = logging.LogRecord("x", 30, "x.py", 1, "failed: %s", (ATTACK,), None)
    assert LogFormatter("%(message)s").format(record) == f"failed: {ESCAPED}"


def test_markup_of_the_program_keeps_its_style() -> None:
    assert render.styled("a", "red") == Text("a", style="red")
