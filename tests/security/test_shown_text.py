"""Terminal injection: the CLI displays and logs stored text, and no terminal interprets it.

Every column that takes text of users gets a hostile text: it would move the cursor, set the title,
reorder a line, imitate another line, or be read as markup. The tests call every command that
prints.
"""

import asyncio
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import typer
from typer.testing import CliRunner

from picture_queue._log import Lines, Log
from picture_queue._text import traceback_of
from picture_queue._visible import LogFormatter, escape_invisible
from picture_queue.local.stack import LocalSupabase
from picture_queue_cli.app import app
from tests.security.sample_project import SampleProject, create_sample_project

HOSTILE = (
    "\x1b]0;title\x07\x1b[2J\x1b[31m\r\b\x7f\x9b31m\x85\u202e\u2066\u200f\u200b\u2028\ufeff\xad"
    "\U000e0041\u3164\u115f\u1160\uffa0\ufe00\ufe0f\u2800\u034f\u17b4\u180b\U000e0100\U0001d159"
    "[red]R[/red][link=https://evil.example]L[/link]:skull:\nerror: forged"
)
#: Characters that no output may contain: all invisible ones except tab and line feed.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001d159\U000e0000-\U000e0fff]"
)
#: Default_Ignorable_Code_Point in DerivedCoreProperties of Unicode 15, 16 and 17.
IGNORABLE = (
    "00AD 034F 061C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF"
    " FFA0 FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
)
#: Format characters (Cf) that are visible: signs around Arabic, Syriac and Kaithi numbers.
VISIBLE_FORMAT_CHARACTERS = {
    *range(0x600, 0x606),
    0x6DD,
    0x70F,
    0x890,
    0x891,
    0x8E2,
    0x110BD,
    0x110CD,
}
#: Sequences that rich writes for the program: colours, and the cursor of a progress bar.
PROGRAM_SEQUENCES = re.compile(r"\x1b\[(?:[0-9;]*m|\d*[AKG]|\?25[lh])|\r")

#: Columns whose values the database chooses or validates.
COLUMNS_WITHOUT_USER_TEXT = {
    "status", "hold", "state", "kind", "action", "level", "on_parent_failure", "missed", "cron",
    "timezone", "backoff_policy", "unique_states", "on_conflict", "subject", "sqlstate", "type",
    "default_model", "unknown_queue", "name_pattern",
}  # fmt: skip
#: Tables without user text: state transitions, defaults, and applied migrations.
TABLES_WITHOUT_USER_TEXT = {
    "state_transition",
    "setting",
    "migration",
    "depth",
    "depth_change",
    "schema_version",
}


@pytest.fixture(scope="module")
def hostile_stack() -> Iterator[dict[str, Any]]:
    """A stack full of hostile text, and the ids of its rows."""

    async def fill(stack: LocalSupabase) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=stack.api_url, timeout=30) as http:
            project = await create_sample_project(stack, http)
            await _add_printed_objects(project)
        connection = await asyncpg.connect(stack.superuser_url, timeout=10)
        try:
            await _write_hostile_text(connection)
        finally:
            await connection.close(timeout=5)
        return project.ids | {"stack": stack}

    with LocalSupabase() as stack:
        yield asyncio.run(fill(stack))


async def _add_printed_objects(project: SampleProject) -> None:
    """Add the limits, workers, pauses and logs that commands print."""
    await project.call("service", "set_limit", key="host:a", max_running=1)
    await project.call("service", "pause_key", key="host:b")
    await project.call("service", "set_tenant", tenant="t", weight=2)
    await project.call("service", "set_queue", queue="paused", changes={})
    await project.call("service", "pause_queue", queue="paused", reason="x")
    await project.call(
        "service", "register_worker", worker="w", queues=["paused"], job_types={"resize": {}}
    )
    lease = {"job_id": project["running"], "lease_id": project["running_lease"]}
    await project.call("service", "report_progress", **lease, progress=5, message="x")
    await project.call("service", "log_job", **lease, lines=[{"level": "info", "message": "x"}])
    for name, arguments in (
        ("waits", {"queue": "paused"}),
        ("limited", {"options": {"limit_keys": ["host:b"], "tenant": "t"}}),
        ("done", {"queue": "done"}),
    ):
        project.ids[name] = await project.call(
            "service", "enqueue_job", job_type="resize", **arguments
        )
    (job,) = await project.call(
        "service", "claim_jobs", worker="w", queues=["done"], job_types=["resize"]
    )
    done = {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "completed"}
    await project.call("service", "report_jobs", outcomes=[done | {"result": {"x": 1}}])


async def _write_hostile_text(connection: Any) -> None:
    """Write hostile text into every column that takes text."""
    columns = await connection.fetch(
        """select c.oid::regclass::text as "table", c.relname::text as name, a.attname::text as column,
          format_type(a.atttypid, null) as type
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relkind = 'r' and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
          and c.relnamespace in ('public'::regnamespace, 'picture_queue'::regnamespace)
          and format_type(a.atttypid, null) in ('text', 'text[]', 'jsonb')
        order by 1, 3"""  # noqa: E501
    )
    written = set()
    for row in columns:
        if row["name"] in TABLES_WITHOUT_USER_TEXT or row["column"] in COLUMNS_WITHOUT_USER_TEXT:
            continue
        value = {
            "text": "$1",
            "text[]": "array[$1]",
            "jsonb": "jsonb_build_object($1::text, $1::text)",
        }[row["type"]]
        column = f'"{row["column"]}"'
        if row["column"] == "inputs":
            value = "jsonb_build_array(jsonb_build_object('name', $1::text, 'type', $1::text))"
        for where in ("", f" where ctid = (select min(ctid) from {row['table']})"):
            statement = f"update {row['table']} set {column} = {value}{where}"
            try:
                async with connection.transaction():
                    await connection.execute(statement, HOSTILE)
            except (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError):
                continue
            written.add(f"{row['name']}.{row['column']}")
            break
    # Names of queues and schedules are missing: a constraint permits only plain characters.
    assert written >= {
        "job_queue.job_type", "job_queue.queue", "job_queue.error", "job_queue.message",
        "job_queue.payload", "job_queue.result", "job_queue.tags", "job_queue.idempotency_key",
        "job_queue.parked_on", "job_queue.blocked_on", "job_queue.worker", "job_queue.tenant",
        "generations.prompt", "generations.error", "generations.model_id", "images.path",
        "queue.pause_reason", "worker.name", "worker.queues",
        "schedule.last_error", "history.error", "history.detail", "history.worker",
        "model.model_id", "batch.metadata", "limit_key.key",
    }, written  # fmt: skip


#: Every command that prints stored text, or an error of the database about an argument.
COMMANDS: dict[str, list[list[str]]] = {
    "jobs list": [["--limit", "1000"], ["--status", "failed"], ["--queue", HOSTILE]],
    "jobs show": [[name] for name in ("{running}", "{failed}", "{waits}", "{limited}", "{done}")],
    "jobs history": [["{failed}"], ["{running}"], ["{pending}"]],
    "jobs reasons": [[], ["--job-type", HOSTILE]],
    "jobs cancel": [["{waits}"], ["--queue", HOSTILE, "--preview"], ["{unknown}"]],
    "jobs retry": [["{waits}"], ["{unknown}"], ["{pending}"]],
    "jobs discard": [["--queue", HOSTILE, "--preview"]],
    "watch": [["{done}"], ["{failed}"], ["{limited}", "--timeout", "0.5"], ["{unknown}"]],
    "enqueue": [[HOSTILE], ["x", json.dumps({HOSTILE: HOSTILE})], ["x", HOSTILE]],
    "generate": [
        [HOSTILE, "--no-watch"],
        ["x", "--model", HOSTILE],
        ["x", "--input", f"{HOSTILE}={HOSTILE}"],
        ["x", "--out", HOSTILE.replace("/", "_"), "--timeout", "0.5"],
    ],
    "batches show": [["{batch}"], ["{unknown}"]],
    "batches enqueue": [[json.dumps([{"job_type": HOSTILE}])], [HOSTILE]],
    "schedules list": [[]],
    "schedules set": [[HOSTILE, "--every", "1h", "--job-type", "x"]],
    "schedules delete": [[HOSTILE], ["unknown\x1b[31m"]],
    "schedules pause": [[HOSTILE]],
    "schedules resume": [[HOSTILE]],
    "schedules run": [[HOSTILE]],
    "events send": [[HOSTILE], ["x", HOSTILE]],
    "health": [[]],
    "generations list": [["--limit", "1000"], ["--search", HOSTILE], ["--model", HOSTILE]],
    "generations show": [["{generation}"], ["{unknown}"]],
    "generations favourite": [["{generation}"], ["{unknown}"]],
    "generations batches show": [["{generation_batch}"], ["{unknown}"]],
    "generations batches cancel": [["{generation_batch}"], ["{unknown}"]],
    "generations delete": [["{generation}", "--yes"], ["{unknown}", "--yes"]],
    "models list": [[]],
    "models show": [[HOSTILE]],
    "models add": [[HOSTILE, "--kind", "upscale"]],
    "models refresh": [[HOSTILE]],
    "models enable": [[HOSTILE]],
    "models disable": [[HOSTILE]],
    "rules list": [[]],
    "rules set": [[HOSTILE, HOSTILE, "lock", HOSTILE], ["*", "x", "lock", HOSTILE]],
    "rules delete": [[HOSTILE, HOSTILE, "cap"]],
    "queues list": [[]],
    "queues show": [[HOSTILE], ["unknown\x1b[31m"]],
    "queues set": [[HOSTILE, "max_attempts=3"], ["x", f"{HOSTILE}=1"], ["x", HOSTILE]],
    "queues pause": [[HOSTILE, "--reason", HOSTILE], ["x", "--reason", HOSTILE]],
    "queues resume": [[HOSTILE]],
    "queues drain": [[HOSTILE]],
    "queues purge": [[HOSTILE], [HOSTILE, "--preview"]],
    "queues workers": [[HOSTILE]],
    "limits list": [[]],
    "limits set": [[HOSTILE, "--max-running", "1"], ["host:a", "--rate", HOSTILE]],
    "limits pause": [[HOSTILE]],
    "limits resume": [[HOSTILE]],
    "limits delete": [[HOSTILE]],
    "tenants list": [[]],
    "tenants set": [[HOSTILE, "2"]],
    "budgets list": [[]],
    "budgets show": [[HOSTILE]],
    "budgets set": [[HOSTILE, "per_minute=1"], ["user:*", f"{HOSTILE}=1"]],
    "budgets delete": [[HOSTILE]],
    "accounts list": [["--plan", HOSTILE], []],
    "accounts show": [["{unknown}"]],
    "accounts set": [["{unknown}", "--plan", HOSTILE]],
    "accounts grant": [["{unknown}", "5", "--note", HOSTILE, "--idempotency-key", HOSTILE]],
    "accounts ledger": [[]],
    "settings show": [[]],
    "settings set": [[f"{HOSTILE}=1"], [f"default_model={HOSTILE}"]],
    "doctor": [[], ["--check", HOSTILE]],
    "maintain": [["--force"]],
    "worker": [["--app", HOSTILE], ["--queue", f"{HOSTILE}=x"], ["--queue", HOSTILE, "--name", ""]],
    "serve": [["--app", HOSTILE], ["--host", HOSTILE], ["--queue", f"{HOSTILE}=x"]],
    "adopt": [["--db-url", f"postgresql://{HOSTILE}"]],
    "install": [["--dir", f"/none/{HOSTILE}"]],
    "migrate": [["--db-url", f"postgresql://127.0.0.1:1/{HOSTILE}"]],
    "local status": [["--data-dir", f"/none/{HOSTILE}"]],
    "local env": [["--data-dir", f"/none/{HOSTILE}"]],
    "local start": [["--data-dir", f"/proc/{HOSTILE}"]],
    "local stop": [["--data-dir", f"/none/{HOSTILE}"]],
    "local reset": [["--data-dir", f"/none/{HOSTILE}"], ["--data-dir", f"/none/{HOSTILE}", "-y"]],
}
#: The command `demo` starts another stack, and shows only objects that it has created there.
COMMANDS_WITHOUT_STORED_TEXT = {"demo"}


def list_commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[str]:
    command = typer.main.get_command(app) if command is None else command
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from list_commands(subcommand, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path)


def test_every_command_is_tried():
    assert set(list_commands()) - COMMANDS_WITHOUT_STORED_TEXT == COMMANDS.keys()


def make_arguments(hostile_stack: dict[str, Any], command: str, parameters: list[str]) -> list[str]:
    """Return the words of a command, with the id of a row in place of a name in braces."""
    ids = {**hostile_stack, "unknown": str(uuid4())}
    words = [ids[word[1:-1]] if re.fullmatch(r"\{\w+\}", word) else word for word in parameters]
    return [*command.split(), *words]


@pytest.mark.parametrize("as_json", [False, True], ids=["", "json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_interprets_stored_text(
    hostile_stack: dict[str, Any],
    command: str,
    as_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    stack = hostile_stack["stack"]
    for name in ("PICTURE_QUEUE_DATABASE_URL", "SUPABASE_ACCESS_TOKEN", "REPLICATE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    env = {"SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key}
    has_json = "--json" in CliRunner().invoke(app, [*command.split(), "--help"]).output
    if as_json and not has_json:
        pytest.skip("prints no JSON")
    for parameters in COMMANDS[command]:
        command_line = make_arguments(hostile_stack, command, parameters)
        command_line += ["--json"] if as_json else []
        done = CliRunner(env=env).invoke(app, command_line, prog_name="picture-queue")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        for stream in (done.stdout, done.stderr):
            assert not INVISIBLE.search(stream), (parameters, stream)
            assert not re.search("^error: forged", stream, re.MULTILINE), (parameters, stream)
        if as_json and done.exit_code == 0 and command != "watch":
            json.loads(done.stdout)


TERMINAL_COMMANDS = [
    ["jobs", "list"],
    ["jobs", "show", "{failed}"],
    ["jobs", "history", "{failed}"],
    ["watch", "{failed}"],
    ["watch", "{running}", "--timeout", "1"],
    ["watch", "{limited}", "--timeout", "1"],
    ["health"],
    ["queues", "list"],
    ["queues", "pause", HOSTILE],
    ["generate", HOSTILE, "--timeout", "1"],
]


@pytest.mark.parametrize(
    "words",
    TERMINAL_COMMANDS,
    ids=lambda words: " ".join(words)[:30].encode("unicode_escape").decode(),
)
def test_a_terminal_gets_only_sequences_of_the_program(
    hostile_stack: dict[str, Any], words: list[str], tmp_path: Path
):
    stack = hostile_stack["stack"]
    command_line = [
        sys.executable,
        "-m",
        "picture_queue_cli",
        *make_arguments(hostile_stack, "", words),
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PICTURE_")}
    env |= {
        "SUPABASE_URL": stack.api_url, "SUPABASE_KEY": stack.service_role_key,
        "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50",
    }  # fmt: skip
    controller, terminal_end = pty.openpty()
    program = subprocess.Popen(
        command_line,
        stdin=terminal_end,
        stdout=terminal_end,
        stderr=terminal_end,
        env=env,
        cwd=tmp_path,
        close_fds=True,
    )
    os.close(terminal_end)
    output = bytearray()
    while True:
        try:
            chunk = os.read(controller, 65_536)
        except OSError:  # EIO: the program has closed the other end.
            break
        if not chunk:
            break
        output += chunk
    os.close(controller)
    program.wait(timeout=30)
    text = PROGRAM_SEQUENCES.sub("", output.decode())
    assert text.strip()
    assert "Traceback" not in text
    assert not INVISIBLE.search(text), text


def test_visible_characters_are_unchanged():
    assert escape_invisible("grüße 猫 🐈 مرحبا\tx\ny") == "grüße 猫 🐈 مرحبا\tx\ny"
    assert escape_invisible("\x1b\ud800\u202e") == r"\x1b\ud800\u202e"
    assert not INVISIBLE.search(escape_invisible("".join(f"{chr(n)}-" for n in range(0x110000))))
    assert escape_invisible(escape_invisible(HOSTILE)) == escape_invisible(HOSTILE)


def test_invisible_characters_are_escaped():
    hidden = {0x2800, 0x1D159, 0x13441, 0x13442}  # Blank glyphs.
    for part in IGNORABLE.split():
        first, _, last = part.partition("-")
        hidden |= set(range(int(first, 16), int(last or first, 16) + 1))
    for n in range(0x110000):
        if unicodedata.category(chr(n)) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            hidden.add(n)
    for n in hidden - VISIBLE_FORMAT_CHARACTERS - {0x9, 0xA}:
        shown = escape_invisible(f"a{chr(n)}b")
        assert shown.isprintable() and re.fullmatch(r"a\\[\w]+b", shown), hex(n)


@pytest.mark.parametrize(
    "text",
    [
        *("\u2764\ufe0f", "1\ufe0f\u20e3", "\U0001f469\u200d\U0001f4bb", "\U0001f44d\U0001f3fd"),
        *("\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1e9\U0001f1ea"),
    ],
)
def test_an_emoji_is_not_split(text: str):
    assert escape_invisible(f"a {text} b") == f"a {text} b"
    # Selectors and joiners that belong to no emoji are escaped, because they could hide text.
    assert escape_invisible(f"{text}\ufe0f\ufe0f\u200d").endswith(r"\ufe0f\u200d")
    assert escape_invisible(f"{text}\u200d\u200d{text}") == rf"{text}\u200d\u200d{text}"


def test_a_line_of_a_log_cannot_be_forged():
    record = logging.LogRecord("x", 30, "x.py", 1, "failed: %s", (HOSTILE,), None)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record.exc_info = sys.exc_info()
    line = LogFormatter("%(levelname)s %(message)s").format(record)
    assert not INVISIBLE.search(line)
    assert [text for text in line.splitlines() if not text.startswith("    ")] == [
        line.splitlines()[0]
    ]


class _Quoted:
    def __repr__(self) -> str:
        return HOSTILE


@pytest.mark.parametrize("formatter", [None, logging.Formatter("%(message)s"), LogFormatter()])
def test_a_line_of_our_log_cannot_be_forged_with_any_formatter(formatter: Any) -> None:
    """A process with our app or worker may not use our formatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = Log(f"picture_queue.test.{uuid4()}")
    log.logger.propagate = False
    log.logger.addHandler(handler)
    try:
        raise ValueError(HOSTILE) from KeyError(HOSTILE)
    except ValueError as error:
        log.error("%d failed: %s %r", 1, error, error)
        log.warning("failed: %s %s%s", HOSTILE, [HOSTILE], Lines(traceback_of(error) or ""))
        log.exception("failed")
    log.error("failed", exc_info=ValueError(HOSTILE))
    log.warning(f"failed {HOSTILE}")
    log.warning("failed: %s", {"prompt": _Quoted()})
    log.warning(ValueError(HOSTILE))
    shown = stream.getvalue()
    assert not INVISIBLE.search(shown)
    lines = shown.splitlines()
    assert len([line for line in lines if not line.startswith("    ")]) == 7
    assert "    Traceback (most recent call last):" in lines
    assert any(line.startswith('      File "') for line in lines), "a traceback keeps its lines"


def test_a_line_cannot_be_forged_in_a_process_without_a_log_handler() -> None:
    """Python then uses `logging.lastResort`, as in an app under uvicorn."""
    script = f"""
from picture_queue._log import Log
try:
    raise ValueError({HOSTILE!r})
except ValueError as error:
    Log("picture_queue.web").error("A request failed", exc_info=error)
    Log("picture_queue.web").error("A request failed: %s", error)
"""
    result = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, timeout=60, check=True
    )
    shown = result.stderr.decode("utf-8")
    assert not INVISIBLE.search(shown)
    lines = [line for line in shown.splitlines() if not line.startswith("    ")]
    assert len(lines) == 2 and all(line.startswith("A request failed") for line in lines)
