"""``picture-queue serve`` as a process: routes, a worker beside them, signals, slow clients."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from picture_queue import PictureQueue

from .conftest import PROGRAM, UNSET

pytestmark = pytest.mark.timeout(120)
SECRET = "a-secret-of-the-service-for-tests"
HEADERS = {"Authorization": f"Bearer {SECRET}"}
TASKS = """
import time
from picture_queue import SyncJobContext, Worker

worker = Worker()

@worker.handler("served-ok")
def ok() -> str:
    return "done"

@worker.handler("served-wait")
def wait(payload: dict, job: SyncJobContext) -> str:
    job.progress(1)
    while not job.shutdown_requested:
        time.sleep(0.01)
    return "finished"
"""


class Server:
    """A running ``picture-queue serve``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line)
            if match := re.search(r"Listening on (http://\S+)", line):
                self.url = match[1]
                break
        else:
            raise AssertionError("".join(self.lines))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with httpx.Client(timeout=30) as http:
            # The socket listens before the app has started, so this request waits for the start.
            assert http.get(f"{self.url}/healthz").status_code == 200, self.lines

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def pq(stack: Any) -> Iterator[PictureQueue]:
    with PictureQueue(stack.api_url, stack.service_role_key) as client:
        yield client


@pytest.fixture
def serve(stack: Any, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts ``picture-queue serve`` on a free port."""
    (tmp_path / "tasks.py").write_text(TASKS)
    inherited = {name: value for name, value in os.environ.items() if name not in UNSET}
    project = {
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_KEY": stack.service_role_key,
        "SUPABASE_JWT_SECRET": stack.jwt_secret,
        "PICTURE_QUEUE_PROCESS_SECRET": SECRET,
        "REPLICATE_URL": stack.replicate_url,
        "REPLICATE_TOKEN": stack.replicate_token,
    }
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, **environ: str) -> Server:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", "0", *options],
            env=inherited | project | environ,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Server(process)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def user_token(stack: Any, user_id: str) -> str:
    claims = {"role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 600}
    return jwt.encode({**claims, "sub": user_id}, stack.jwt_secret, "HS256")


async def test_a_user_starts_a_generation_and_a_worker_in_the_process_makes_it(
    serve, stack, pq, db
):
    user_id = str(uuid4())
    await db.execute("insert into auth.users (id) values ($1)", user_id)
    server = serve("--worker")
    headers = {"Authorization": f"Bearer {user_token(stack, user_id)}"}
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        answer = await http.post("/start-generation", json={"prompt": "a cat"}, headers=headers)
        assert answer.status_code == 200, answer.text
        started = answer.json()
        assert len(pq.jobs.result(started["job_id"], timeout=60)["images"]) == 1
        assert str(pq.generations.get(started["generation_id"]).user_id) == user_id
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        assert "server" not in answer.headers
    assert server.stop() == 0


def test_without_a_worker_jobs_run_only_for_process_jobs(serve, pq):
    job = pq.jobs.enqueue("served-ok")
    server = serve("--app", "tasks:worker")
    assert pq.jobs.get(job.id).status == "pending"
    answer = httpx.post(f"{server.url}/process-jobs", headers=HEADERS, timeout=60)
    assert answer.json() == {"success": True, "processed": 1, "errors": 0}
    assert pq.jobs.get(job.id).status == "completed"
    assert httpx.post(f"{server.url}/process-jobs", timeout=60).status_code == 401
    assert server.stop(signal.SIGINT) == 0


def test_a_signal_lets_a_running_job_finish(serve, pq):
    server = serve("--app", "tasks:worker", "--worker")
    job = pq.jobs.enqueue("served-wait")
    for event in pq.jobs.watch(job.id, timeout=30):
        if event.progress == 1:
            break
    assert server.stop() == 0
    assert pq.jobs.get(job.id).status == "completed"


def test_a_signal_ends_an_idle_server_within_three_seconds(serve):
    server = serve()
    begun_at = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun_at < 3  # it has no job and no request to wait for


def test_a_client_that_sends_no_complete_head_is_disconnected(serve):
    server = serve()
    address = ("127.0.0.1", httpx.URL(server.url).port)
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(b"POST /start-generation HTTP/1.1\r\nHost: a\r\n")
        assert client.recv(1) == b""  # not a time-out of the client
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert server.stop() == 0


def test_secrets_are_not_logged(serve, stack):
    server = serve("-v")
    httpx.post(f"{server.url}/process-jobs", headers=HEADERS, timeout=60)
    token = user_token(stack, str(uuid4()))
    for bearer in (token, "not-a-token-but-a-secret"):
        headers = {"Authorization": f"Bearer {bearer}"}
        httpx.post(f"{server.url}/start-generation", headers=headers, json={}, timeout=30)
    assert server.stop() == 0
    server._reader.join(10)
    output = "".join(server.lines)
    assert "POST /process-jobs" in output
    for secret in (SECRET, token, "not-a-token", stack.service_role_key, stack.jwt_secret):
        assert secret not in output


def test_a_port_in_use_is_refused(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = cli("serve", "--port", str(port))
    assert (result.exit_code, f"Port {port} is in use" in result.stderr) == (9, True)


@pytest.mark.parametrize(
    ("options", "environ", "code", "text"),
    [
        (("--host", "192.0.2.1"), {}, 2, "--host 192.0.2.1"),
        (("--port", "x"), {}, 2, "--port"),
        ((), {"PICTURE_QUEUE_PROCESS_SECRET": "hunter2"}, 2, "PICTURE_QUEUE_PROCESS_SECRET"),
        ((), {"SUPABASE_KEY": "sb_secret_wrong"}, 5, "key"),
        ((), {"SUPABASE_URL": "http://127.0.0.1:9"}, 6, "127.0.0.1:9"),
        (("--app", "nowhere:worker"), {}, 2, "--app nowhere:worker"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start(cli, options, environ, code, text):
    port = () if "--port" in options else ("--port", "0")
    result = cli("serve", *port, *options, **environ)
    assert (result.exit_code, text in result.stderr) == (code, True), result.stderr
    assert "hunter2" not in result.stderr
