"""Requests of one client that must not block the other clients of the embedded stack."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from picture_queue.local import json_body
from picture_queue.local.gateway.realtime.socket import Socket
from picture_queue.local.gateway.rest import BODY_LIMIT
from picture_queue.local.gateway.storage.files import FileStore
from picture_queue.local.gateway.storage.upload import _Form
from tests.security.sample_project import Answer, SampleProject

# The function waits until the test releases a lock, so the test does not depend on durations.
SLOW = """
create function public.slow() returns int language plpgsql
set statement_timeout = '60s' set lock_timeout = '60s' as $$
begin
  perform pg_advisory_xact_lock_shared(4711);
  return 1;
end $$;
grant execute on function public.slow() to authenticated, service_role;
"""
BLOCKED = (
    "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted"
)
UNKNOWN_ID = "00000000-0000-0000-0000-000000000000"
UNKNOWN_JOB = f'{{"job_id": "{UNKNOWN_ID}"}}'


def send_raw_request(url: str, head: str, body: str) -> str:
    """Send a request exactly as given, and return the response."""
    parts = urlsplit(url)
    request = f"{head}\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n{body}"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@pytest.mark.parametrize("tail", ["", "\\", "\\\n"])
@pytest.mark.parametrize("unit", ['\\"', '\\\n"', '\\\\"', '"'])
def test_an_unterminated_string_is_refused_in_linear_time(unit: str, tail: str):
    # The gateway parses JSON in its event loop, so slow parsing would block all clients.
    started = time.perf_counter()
    with pytest.raises(ValueError, match="100 levels"):
        json_body.parse("[" * 101 + '"' + unit * 30_000 + tail)
    assert time.perf_counter() - started < 2


def test_a_long_string_is_read_in_little_memory():
    # A backtracking regular expression would need 100 bytes of memory for each character.
    script = (
        "from picture_queue.local import json_body\n"
        "import resource\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "text = '[\"' + 'x' * 5_000_000 + '\", \"' + '[' * 101 + '\"]'\n"
        "before = used()\n"
        "json_body.parse(text)\n"
        "print(used() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(done.stdout) < 60  # MB


def test_brackets_in_a_string_do_not_count_as_nesting():
    assert json_body.parse('"' + "[" * 101 + '"') == "[" * 101


@pytest.mark.parametrize("coding", ["gzip, chunked", ",chunked"])
def test_a_body_with_a_transfer_coding_is_not_read_as_the_next_request(sandbox: Any, coding: str):
    # PostgREST must not read the body as another request on a shared connection.
    answer = send_raw_request(
        sandbox.api_url,
        "POST /rest/v1/rpc/get_job HTTP/1.1\r\nContent-Type: application/json\r\n"
        f"apikey: {sandbox.secret_key}\r\nTransfer-Encoding: {coding}",
        f"{len(UNKNOWN_JOB):x}\r\n{UNKNOWN_JOB}\r\n0\r\n\r\n",
    )
    assert "PQ_UNKNOWN_JOB" in answer


async def test_slow_requests_of_a_user_leave_connections_to_the_workers(
    project: SampleProject, admin: Any, until: Callable[..., Any]
):
    # Thirty slow requests of a user must not take all connections of PostgREST.
    await admin.execute(SLOW)
    waiting: list[asyncio.Task[Answer]] = []

    async def is_known() -> bool:
        return (await project.rpc("service", "slow")).status != 404

    async def are_blocked() -> bool:
        return bool(await admin.fetchval(BLOCKED) == 8)

    try:
        await until(is_known)
        await admin.execute("select pg_advisory_lock(4711)")
        waiting += [asyncio.create_task(project.rpc("owner", "slow")) for _ in range(30)]
        await until(are_blocked)
        assert (await project.rpc("service", "picture_queue_version")).status == 200
        assert await are_blocked()
        assert not any(task.done() for task in waiting)
        await admin.execute("select pg_advisory_unlock(4711)")
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    finally:
        await admin.execute("select pg_advisory_unlock_all()")
        await asyncio.gather(*waiting, return_exceptions=True)
        await admin.execute("drop function public.slow()")


async def test_statement_timeouts_of_the_roles_equal_those_of_the_platform(
    project: SampleProject, admin: Any, until: Callable[..., Any]
):
    await admin.execute(
        "create function public.statement_limit() returns text language sql volatile as"
        " $$ select current_setting('statement_timeout') $$;"
        "grant execute on function public.statement_limit() to anon, authenticated, service_role"
    )

    async def is_known() -> bool:
        return (await project.rpc("service", "statement_limit")).status != 404

    try:
        await until(is_known)
        for role, limit in (("anon", "3s"), ("owner", "8s"), ("service", "8s")):
            assert await project.call(role, "statement_limit") == limit
    finally:
        await admin.execute("drop function public.statement_limit()")


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/auth/v1/signup", 1_048_576),
        ("/auth/v1/token?grant_type=password", 1_048_576),
        ("/storage/v1/object/list/pictures", 1_048_576),
        ("/realtime/v1/api/broadcast", 5_000_000),
        ("/realtime/v1/api/broadcast/a/events/b", 5_000_000),
    ],
)
def test_a_body_above_the_limit_is_refused(sandbox: Any, path: str, limit: int):
    # Without limits, 30 MB of numbers took 13 seconds, and 300 MB of text took 1.5 GB of memory.
    headers = {"apikey": sandbox.publishable_key, "content-type": "application/json"}

    def body(length: int) -> Iterator[bytes]:
        yield b'{"a": "'
        for _ in range(length // 10_000):
            yield b"x" * 10_000
        yield b'"}'

    for length, refused in ((limit - 20_000, False), (limit + 20_000, True)):
        answer = httpx.post(
            sandbox.api_url + path, headers=headers, content=body(length), timeout=30
        )
        assert (answer.status_code == 413) is refused, answer.text
        if refused:
            assert str(limit) in answer.json()["message"]


def test_a_body_sent_with_a_service_key_is_limited(sandbox: Any):
    headers = {"apikey": sandbox.secret_key, "content-type": "application/json"}
    user = f"/auth/v1/admin/users/{UNKNOWN_ID}"
    for method, path in (("DELETE", user), ("POST", "/_faults")):
        url, content = sandbox.api_url + path, b" " * 1_100_000
        answer = httpx.request(method, url, headers=headers, content=content, timeout=30)
        assert answer.status_code == 413, (path, answer.text)
    # A deletion needs no body.
    assert httpx.delete(sandbox.api_url + user, headers=headers).json()["code"] == 404


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_for_postgrest_is_limited(sandbox: Any, chunked: bool):
    # Without a limit, PostgREST buffered 3 GB from a caller with only the publishable key.
    headers = {"apikey": sandbox.publishable_key, "content-type": "application/json"}
    if not chunked:
        headers["content-length"] = str(BODY_LIMIT + 1)

    def pieces() -> Iterator[bytes]:
        for _ in range(BODY_LIMIT // 2**20):
            yield b" " * 2**20
        yield b" "

    url = f"{sandbox.api_url}/rest/v1/rpc/list_models"
    answer = httpx.post(url, headers=headers, content=pieces(), timeout=60)
    assert answer.status_code == 413
    assert f"larger than {BODY_LIMIT} bytes" in answer.json()["message"]
    # The next request does not get the rest of the body.
    assert httpx.post(url, headers={"apikey": sandbox.secret_key}).status_code == 200


def test_an_upload_without_a_length_is_limited(sandbox: Any):
    headers = {"apikey": sandbox.secret_key, "content-type": "image/png"}
    url = f"{sandbox.api_url}/storage/v1/object/pictures/endless.png"

    def pieces() -> Iterator[bytes]:
        for _ in range(52):
            yield b"x" * 1024 * 1024

    answer = httpx.post(url, headers=headers, content=pieces(), timeout=60)
    assert answer.json()["code"] == "EntityTooLarge"
    assert httpx.get(url, headers=headers).json()["code"] == "NoSuchKey"


def test_the_total_size_of_form_fields_is_limited(tmp_path: Path):
    form = _Form(FileStore(tmp_path), 1000)
    for n in range(1000):
        form._start_part()
        form._name = f"field {n}"
        form._add_data(b"x" * 100_000, 0, 100_000)
        form._end_part()
    assert len(form.fields) == 100
    assert sum(map(len, form.fields.values())) == 1024 * 1024


async def test_the_queue_of_a_socket_that_is_not_read_is_limited_in_bytes():
    # A limit of 1,000 messages alone would let 3 GB wait for a client that does not read.
    backend: Any = SimpleNamespace(queue_length=1000)
    unread: Any = None
    client = Socket(unread, "", "1.0.0", backend)
    for _ in range(60):
        client.deliver("x" * 2_900_000)
    assert client._close_code.result() == 1013  # The code 1013 means: try again later.
    assert client._outbox.qsize() * 2_900_000 < 100_000_000
