"""Invalid input on the command line has an error of one line and an exit code, and no effect."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Rpc = Callable[..., Any]
SCHNELL = "black-forest-labs/flux-schnell"


def expect_error(result: Result, code: int, *texts: str) -> None:
    """Check the exit code, and that stderr is a one-line error with these texts."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert result.stderr.rstrip().endswith((".", "?", ")", " --help"))
    for text in texts:
        assert text.lower() in result.stderr.lower()


@pytest.fixture
def count_rows(rpc: Rpc) -> Callable[[], tuple[int, int]]:
    """Return a function that counts jobs and generations."""

    def count() -> tuple[int, int]:
        return len(rpc("list_jobs", filter={"limit": 1000})), len(
            rpc("list_generations", filter={"limit": 1000})
        )

    return count


@pytest.mark.parametrize(
    ("args", "code", "texts"),
    [
        (
            ("cat", "--model", "nobody/nothing"),
            4,
            ("--model is 'nobody/nothing'", "`picture-queue models`"),
        ),
        (("",), 3, ("PROMPT is empty",)),
        (("  ",), 3, ("PROMPT is empty",)),
        (("x" * 10_001,), 3, ("error: PROMPT has 10001 characters, the limit is",)),
        (
            ("cat", "--model", SCHNELL, "--input", "num_outputs=5"),
            3,
            ("error: --input num_outputs is 5 and is above 4", "inputs of"),
        ),
        (
            ("cat", "--model", SCHNELL, "--input", "aspect_ratio=2:7"),
            3,
            ('--input aspect_ratio is "2:7" and is not one of',),
        ),
        (
            ("cat", "--model", SCHNELL, "--input", "seed=red"),
            3,
            ('--input seed is "red" and is not a whole number',),
        ),
        (
            ("cat", "--model", SCHNELL, "--input", "sed=1"),
            3,
            ("--input sed is 1 and is not an input of",),
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_an_invalid_generation_is_refused(
    cli: Cli,
    count_rows: Callable[[], tuple[int, int]],
    args: tuple[str, ...],
    code: int,
    texts: tuple[str, ...],
) -> None:
    before = count_rows()
    expect_error(cli("generate", *args), code, *texts)
    assert count_rows() == before


@pytest.mark.parametrize(
    ("args", "code", "texts"),
    [
        (("resize", "{path: 1}"), 3, "PAYLOAD is not JSON"),
        (("resize", "[1]"), 3, "PAYLOAD is not a JSON object"),
        (("resize", "@none.json"), 3, "PAYLOAD cannot be read"),
        (("resize", json.dumps({"a": "x" * 65_536})), 3, "65"),
        (("resize", "--max-attempts", "0"), 2, "--max-attempts: 0 is not between 1 and 1000"),
        (("resize", "--timeout", "0"), 3, "--timeout is 0.0, not 0.001 to"),
        (("resize", "--queue", "a b"), 3, '--queue is "a b". Begin with a letter'),
        (("",), 2, "JOB_TYPE: '' is blank"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_an_invalid_job_is_refused(
    cli: Cli,
    count_rows: Callable[[], tuple[int, int]],
    args: tuple[str, ...],
    code: int,
    texts: str,
) -> None:
    before = count_rows()
    expect_error(cli("enqueue", *args), code, texts)
    assert count_rows() == before


def test_unknown_jobs_and_models_are_not_found(cli: Cli) -> None:
    unknown_id = "00000000-0000-4000-8000-000000000000"
    for command in (("jobs", "show"), ("jobs", "cancel"), ("jobs", "retry"), ("watch",)):
        expect_error(cli(*command, unknown_id), 4, unknown_id)
    expect_error(cli("models", "nobody/nothing"), 4, "nobody/nothing", "picture-queue models")


# --- The project ---


def test_missing_settings_are_reported(cli: Cli, tmp_path: Any) -> None:
    environment = {"SUPABASE_URL": None, "SUPABASE_KEY": None, "XDG_DATA_HOME": str(tmp_path)}
    expect_error(cli("jobs", "list", **environment), 2, "SUPABASE_URL", "picture-queue local start")
    expect_error(cli("jobs", "list", SUPABASE_KEY=None), 2, "No Supabase key is set")
    expect_error(
        cli("jobs", "list", SUPABASE_URL="localhost:54321"), 2, "not an http:// or https://"
    )


def test_a_wrong_key_is_refused(cli: Cli, stack: Any) -> None:
    expect_error(cli("jobs", "list", SUPABASE_KEY="wrong"), 5, "key")
    expect_error(cli("--key", stack.service_role_key + "x", "jobs", "list"), 5, "key")


def test_a_command_that_needs_a_service_key_refuses_the_anon_key(cli: Cli, stack: Any) -> None:
    expect_error(cli("enqueue", "x", SUPABASE_KEY=stack.anon_key), 5, "service key")
    expect_error(cli("health", SUPABASE_KEY=stack.anon_key), 5, "service key")


def test_the_error_for_an_address_without_a_server_names_the_address(cli: Cli) -> None:
    with socket.socket() as bound:  # The port is bound, but has no listener.
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        expect_error(cli("jobs", "list", SUPABASE_URL=url), 6, url, "Check SUPABASE_URL")


@contextmanager
def serve_response(answer: Any, status: int = 200) -> Iterator[str]:
    """Run a server that sends the same response to every request; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Do not log requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answer", "status", "code", "texts"),
    [
        (
            {"version": "0.0.1", "contract": 0, "oldest_client_contract": 0},
            200,
            7,
            "supabase db push",
        ),
        (
            {"version": "9.0.0", "contract": 99, "oldest_client_contract": 98},
            200,
            7,
            "pip install --upgrade picture-queue",
        ),
        ({"code": "PGRST202", "message": "no function", "details": None, "hint": None}, 404, 7, ""),
        ({"hello": "I am a web shop"}, 404, 6, "does not answer like a Supabase project"),
        ({"hello": "I am a web shop"}, 200, 6, "does not answer like a Supabase project"),
        ([], 200, 6, "does not answer like a Supabase project"),
        (None, 200, 6, "does not answer like a Supabase project"),
    ],
    ids=["database too old", "client too old", "not installed", "404", "object", "list", "null"],
)
def test_an_incompatible_project_is_reported(
    cli: Cli, answer: Any, status: int, code: int, texts: str
) -> None:
    with serve_response(answer, status) as url:
        expect_error(cli("jobs", "list", SUPABASE_URL=url), code, texts)


# --- The worker ---


@pytest.mark.parametrize(
    ("app", "texts"),
    [
        ("tasks", "not MODULE:NAME"),
        ("nowhere_to_be_found:worker", "cannot be imported"),
        ("json:worker", "json has no such name"),
        ("json:dumps", "it is of type function"),
    ],
)
def test_an_app_that_is_not_a_worker_is_refused(cli: Cli, app: str, texts: str) -> None:
    expect_error(cli("worker", "--app", app), 2, texts)


def test_an_invalid_worker_setting_is_refused(cli: Cli) -> None:
    expect_error(cli("worker", "--lease", "0"), 2, "lease is 0.0", "Choose 1 to")
