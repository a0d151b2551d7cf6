"""Calls over HTTP and over direct connections: their deadlines, retries and errors."""

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
import trustme
from supabase import (
    AsyncClientOptions,
    ClientOptions,
    acreate_client,
    create_client,
)

from picture_queue import AsyncPictureQueue, PictureQueue, _rpc, errors
from picture_queue._realtime import sync_follow
from picture_queue._retry_after import parse_retry_after
from picture_queue._rpc import Rpc
from picture_queue._transport import connection, duplicate
from picture_queue._transport.base import Deadline
from tests.client.api import Answer, Api, hang, send_endlessly

CALL: Rpc[Any] = Rpc("f", {}, lambda data: data)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api().serving() as running:
        yield running


def call(api: Api, timeout: float | None = None) -> Any:
    """Make a call with a sync and with an async client, and return the result or raise the error.

    Check that both clients have the same outcome and make the same number of requests.
    """
    answers = list(api.answers)
    with PictureQueue(api.url, "key") as pq:
        sync_result = result_or_error(lambda: pq._backend.call(CALL, timeout))
    sync_requests = len(api.called)
    api.answers = answers

    async def call_async() -> Any:
        async with AsyncPictureQueue(api.url, "key") as client:
            return await client._backend.call(CALL, timeout)

    async_result = result_or_error(lambda: asyncio.run(call_async()))
    assert len(api.called) == 2 * sync_requests
    if not isinstance(sync_result, Exception):
        assert sync_result == async_result
        return sync_result
    assert (type(sync_result), str(sync_result)) == (type(async_result), str(async_result))
    raise async_result


def result_or_error(call: Any) -> Any:
    try:
        return call()
    except errors.PictureQueueError as error:
        return error


def test_a_hanging_connection_costs_one_timeout_and_is_not_reused(api):
    with PictureQueue(api.url, "key") as pq:
        assert pq._backend.call(CALL) == "ok"
        api.answers = [Answer(write=hang)]
        began = time.monotonic()
        with pytest.raises(errors.ConnectionFailed, match=r"no answer in 0\.5 s"):
            pq._backend.call(CALL, timeout=0.5)
        assert time.monotonic() - began < 20
        assert pq._backend.call(CALL) == "ok"
    assert api.sockets[0] == api.sockets[1] != api.sockets[2]


async def test_a_connection_is_not_reused_after_a_timeout_of_the_call_or_of_its_caller(api):
    async with AsyncPictureQueue(api.url, "key") as pq:
        assert await pq._backend.call(CALL) == "ok"
        api.answers = [Answer(write=hang), Answer(write=hang)]
        with pytest.raises(errors.ConnectionFailed, match=r"no answer in 0\.3 s"):
            await pq._backend.call(CALL, timeout=0.3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await pq._backend.call(CALL)
        assert await pq._backend.call(CALL) == "ok"
    assert api.sockets[0] == api.sockets[1]
    assert len(set(api.sockets)) == 3


async def test_all_idle_connections_of_a_dead_network_cost_one_timeout(api):
    barrier = threading.Barrier(6)

    def respond_together(handler: Any) -> None:
        barrier.wait(10)
        handler.send_header("content-length", "4")
        handler.end_headers()
        handler.wfile.write(b'"ok"')

    async with AsyncPictureQueue(api.url, "key") as pq:
        await pq._backend.call(CALL)
        api.answers = [Answer(write=respond_together)] * 6
        await asyncio.gather(*(pq._backend.call(CALL) for _ in range(6)))
        assert len(set(api.sockets)) == 6
        api.silent_sockets = set(api.sockets)
        with pytest.raises(errors.ConnectionFailed):
            await pq._backend.call(CALL, timeout=0.5)
        for _ in range(6):
            assert await pq._backend.call(CALL, timeout=10) == "ok"
    assert len(set(api.sockets)) == 7


def test_a_response_that_never_ends_is_abandoned_at_the_timeout(api):
    api.answers = [Answer(write=send_endlessly)]
    with pytest.raises(errors.ConnectionFailed, match="no answer in"):
        call(api, timeout=0.4)


def test_a_call_is_retried_after_the_seconds_of_retry_after(api):
    api.answers = [Answer(429, b"{}", {"retry-after": "1"})]
    began = time.monotonic()
    assert call(api) == "ok"
    assert len(api.called) == 4  # Each of the two clients made two requests.
    assert time.monotonic() - began >= 2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("by_date", [False, True])
def test_a_retry_after_beyond_the_deadline_is_raised_to_the_caller(api, status, by_date):
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    api.answers = [Answer(status, b"slow down", {"retry-after": at if by_date else "60"})]
    began = time.monotonic()
    with pytest.raises(errors.Busy) as raised:
        call(api, timeout=20)
    assert 30 < raised.value.retry_after <= 61
    assert time.monotonic() - began < 15
    assert len(api.called) == 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0), ("1.5", 1.5), ("-3", 0), ("", None), (None, None), ("soon", None),
        ("nan", None), ("inf", None), ("1e400", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 99 Oct 2015", None), (" 7 ", 7),
        # At most 300 seconds: a wrong header must not stop a worker for a year.
        ("31536000", 300), ("Fri, 31 Dec 9999 23:59:59 GMT", 300), ("1e300", 300),
        (f"Wed, {10**20} Oct 2026 07:28:00 GMT", None),
    ],
)  # fmt: skip
def test_all_forms_of_retry_after_are_parsed(header, seconds):
    assert parse_retry_after(header) == seconds


@pytest.mark.parametrize(
    ("answer", "error", "expected", "requests"),
    [
        (Answer(401, b'{"message":"No API key"}'), "AuthenticationFailed", "refused the key", 1),
        (Answer(401, b""), "AuthenticationFailed", "HTTP 401", 1),
        (Answer(403, b"<html>", {"content-type": "text/html"}), "AuthenticationFailed", "403", 1),
        (Answer(401, b'{"title":"no token"}'), "ConnectionFailed", "like a Supabase project", 4),
        (Answer(413, b"<html>"), "TooLarge", "larger", 1),
        (Answer(429, b"<html>"), "Busy", "limits the rate of calls", 4),
        (Answer(500, b"<html>"), "Busy", "is not available now: HTTP 500", 4),
        (Answer(522, b"<html>"), "Busy", "is not available now: HTTP 522", 4),
        (Answer(530, b""), "Busy", "is not available now: HTTP 530", 4),
        (Answer(500, b'{"code":"XX000","message":"oh"}'), "ServerError", "Oh.", 1),
        (Answer(503, b'{"code":"53300","message":"oh"}'), "Busy", "no free connection", 4),
        (Answer(404, b"<html>"), "ConnectionFailed", "like a Supabase project: HTTP 404", 4),
        (Answer(302, b""), "ConnectionFailed", "like a Supabase project: HTTP 302", 4),
        (Answer(200, b"<html>", {"content-type": "text/html"}), "ConnectionFailed", "like a", 4),
        (Answer(200, b'{"a":'), "UnreadableAnswer", "answer of f cannot be read", 1),
        (Answer(200, b"1" * 5000), "UnreadableAnswer", "answer of f cannot be read", 1),
        (Answer(200, b"[" * 3000 + b"]" * 3000), "UnreadableAnswer", "of f cannot be read", 1),
    ],
)
def test_each_failure_has_its_error_and_message(
    api, monkeypatch, answer, error, expected, requests
):
    monkeypatch.setattr("picture_queue._transport.base._backoff", lambda state: 0.0)
    api.answers = [answer] * 4
    with pytest.raises(errors.PictureQueueError) as raised:
        call(api)
    assert type(raised.value).__name__ == error
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(api.called) == 2 * requests


def test_a_response_of_an_unexpected_type_is_a_library_error(api):
    api.answers = [Answer(body=b"[1]")]
    with PictureQueue(api.url, "key") as pq, pytest.raises(errors.UnreadableAnswer) as failed:
        pq.jobs.get(UUID(int=1))
    assert failed.value.answer == b"[1]"


def test_exceptions_of_other_libraries_become_library_errors(api, monkeypatch):
    monkeypatch.setattr("picture_queue._transport.base._backoff", lambda state: 0.0)
    with PictureQueue(api.url, "key") as pq:
        assert pq._backend.call(CALL) == "ok"
        for error in (KeyError(7), RuntimeError("Event loop is closed"), OSError("no route")):

            def fail(*args: Any, error: Exception = error, **kwargs: Any) -> None:
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(pq._backend._api().client().postgrest.session, "send", fail)
                with pytest.raises(errors.ConnectionFailed):
                    pq._backend.call(CALL)


# --- Threads, event loops and processes ---


def client_arguments(stack: Any) -> list[dict[str, str]]:
    """Return the arguments of a client over HTTP, and of a client over direct connections."""
    http = {"url": stack.api_url, "key": stack.service_role_key}
    return [http, {"database_url": stack.db_url}]


def test_threads_share_a_client(stack, queue):
    def use(pq: PictureQueue, n: int) -> None:
        for i in range(5):
            enqueued = pq.jobs.enqueue("x", {"n": [n, i]}, queue=queue)
            assert pq.jobs.get(enqueued.id).payload == {"n": [n, i]}

    for arguments in client_arguments(stack):
        with PictureQueue(**arguments) as pq, ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda n, pq=pq: use(pq, n), range(32)))


def test_a_client_can_be_used_in_several_event_loops_in_turn(stack, queue):
    async def use(pq: AsyncPictureQueue, n: int) -> None:
        async def enqueue(i: int) -> None:
            enqueued = await pq.jobs.enqueue("x", {"n": [n, i]}, queue=queue)
            assert (await pq.jobs.get(enqueued.id)).payload == {"n": [n, i]}

        await asyncio.gather(*(enqueue(i) for i in range(8)))

    for arguments in client_arguments(stack):
        pq = AsyncPictureQueue(**arguments)
        for n in range(3):
            asyncio.run(use(pq, n))
        asyncio.run(pq.aclose())


@pytest.mark.parametrize("direct", [False, True])
async def test_using_a_client_in_two_event_loops_at_once_is_refused(stack, direct):
    async with AsyncPictureQueue(**client_arguments(stack)[direct]) as pq:
        await pq.health()
        with pytest.raises(errors.SettingsError, match="belongs to another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(pq.health()))
        await pq.health()


def run_script(script: str, *args: str) -> None:
    """Run a script that forks in a new process, which has only one thread."""
    program = [sys.executable, "-P", "-Wignore", "-c", script, *args]
    process = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert (process.returncode, process.stderr) == (0, "")


FORKS = """
import asyncio, os, sys
from picture_queue import AsyncPictureQueue, PictureQueue

arguments, queue, mode = eval(sys.argv[1]), sys.argv[2], sys.argv[3]

def use(pq, writer):
    for n in range(8):
        enqueued = pq.jobs.enqueue("x", {"n": [writer, n]}, queue=queue)
        assert pq.jobs.get(enqueued.id).payload == {"n": [writer, n]}

async def use_async(pq, writer):
    for n in range(8):
        enqueued = await pq.jobs.enqueue("x", {"n": [writer, n]}, queue=queue)
        assert (await pq.jobs.get(enqueued.id)).payload == {"n": [writer, n]}

pq = PictureQueue(**arguments) if mode == "sync" else AsyncPictureQueue(**arguments)

def run(writer):
    use(pq, writer) if mode == "sync" else asyncio.run(use_async(pq, writer))

async def fork_inside_a_loop():
    await use_async(pq, "parent")
    return fork()

def fork():
    children = []
    for n in range(2):
        child = os.fork()
        if not child:
            try:
                run(n)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    return children

if mode == "inside a loop":
    children = asyncio.run(fork_inside_a_loop())
else:
    run("before")
    children = fork()
run("parent")
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.parametrize("mode", ["sync", "async", "inside a loop"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_fork_has_its_own_connections(stack, queue, mode, direct):
    run_script(FORKS, repr(client_arguments(stack)[direct]), queue, mode)


FORKED_CLIENT = """
import os, sys
from supabase import create_client
from picture_queue import PictureQueue
from picture_queue.errors import SettingsError

pq = PictureQueue(client=create_client(sys.argv[1], sys.argv[2]))
pq.health()
child = os.fork()
if not child:
    try:
        pq.health()
    except SettingsError as error:
        os._exit("Make a new one" not in str(error))  # 0 if the message is right.
    os._exit(2)
pq.health()
sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_fork_cannot_use_a_supabase_client_of_its_parent(stack):
    run_script(FORKED_CLIENT, stack.api_url, stack.service_role_key)


# --- Direct connections to the database ---


def test_no_call_fails_after_all_idle_connections_were_closed(stack, queue):
    with PictureQueue(database_url=stack.db_url) as pq:
        barrier = threading.Barrier(4)

        def enqueue_together(_: int) -> None:
            barrier.wait(10)
            pq._backend.call(Rpc("enqueue_job", {"job_type": "x", "queue": queue}, str))

        pq.health()
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                list(pool.map(enqueue_together, range(4)))
        with PictureQueue(database_url=stack.db_url) as other_client:
            other_client.health()
            (connection,) = other_client._backend.database._pool._idle
            connection.execute(
                b"select pg_terminate_backend(pid) from pg_stat_activity "
                b"where application_name = 'picture_queue' and pid <> pg_backend_pid()",
                [],
                10,
            )
        assert pq.health()
        assert pq.health()


def test_a_server_that_never_responds_is_abandoned_at_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://user:secret@127.0.0.1:{server.getsockname()[1]}/x"
        began = time.monotonic()
        with PictureQueue(database_url=url) as pq, pytest.raises(errors.ConnectionFailed) as raised:
            pq._backend.call(CALL, timeout=0.5)
        assert "secret" not in str(raised.value)

        async def use() -> None:
            async with AsyncPictureQueue(database_url=url, timeout=0.5) as pq:
                await pq.health()

        with pytest.raises(errors.ConnectionFailed, match=r"no answer in 0\.5 s"):
            asyncio.run(use())
        assert time.monotonic() - began < 20


def test_a_sync_call_waits_at_most_its_timeout_for_a_connection(monkeypatch):
    """Check the timeout of each wait on the socket.

    The connect timeout of psycopg cannot be used for this, because it is at least two seconds.
    """
    waits: list[float] = []
    wait = connection._wait_for_socket

    def record_wait(socket: int, writing: bool, timeout: float) -> bool:
        waits.append(timeout)
        return wait(socket, writing, timeout)

    monkeypatch.setattr(connection, "_wait_for_socket", record_wait)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://user:secret@127.0.0.1:{server.getsockname()[1]}/x"
        with PictureQueue(database_url=url) as pq, pytest.raises(errors.ConnectionFailed):
            pq._backend.call(CALL, timeout=0.5)
    assert waits
    assert max(waits) <= 0.5


async def test_the_error_of_an_exhausted_pool_names_the_reason(stack, db):
    async with AsyncPictureQueue(database_url=stack.db_url) as pq:
        await pq.health()
        async with db.transaction():
            await db.execute("lock table picture_queue.setting in access exclusive mode")
            waiting = [asyncio.create_task(pq.settings.get()) for _ in range(4)]
            await asyncio.sleep(0.2)
            with pytest.raises(errors.Busy, match=r"in use for 0\.3 s"):
                await pq._backend.call(CALL, timeout=0.3)
        assert len(await asyncio.gather(*waiting)) == 4


def test_a_missing_database_or_a_malformed_url_is_a_settings_error(stack):
    missing_url = stack.db_url.rpartition("/")[0] + "/nowhere"
    with (
        PictureQueue(database_url=missing_url) as pq,
        pytest.raises(errors.SettingsError, match='database "nowhere" does not exist'),
    ):
        pq.health()
    with (
        PictureQueue(database_url="nonsense:secret") as pq,
        pytest.raises(errors.SettingsError, match="is not a PostgreSQL URL") as raised,
    ):
        pq.health()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("timeout", [1e9, float("inf")])
def test_a_huge_or_infinite_timeout_is_accepted(stack, timeout):
    with PictureQueue(database_url=stack.db_url, timeout=timeout) as pq:
        assert pq.version().version


async def test_separate_connections_send_the_headers_of_the_callers_client():
    """The heartbeat of a worker and a sync watch open separate connections."""
    url, headers = "http://127.0.0.1:9", {"X-Gateway": "open"}
    async with httpx.AsyncClient() as http:
        options = AsyncClientOptions(headers=dict(headers), httpx_client=http)
        supabase = await acreate_client(url, "a-key", options)
        heartbeat = await duplicate.for_thread(AsyncPictureQueue(client=supabase)._backend)
        assert heartbeat.api is not None
        assert heartbeat.api.client().postgrest.headers["x-gateway"] == "open"
        heartbeat.close()
    with httpx.Client() as http:
        sync_options = ClientOptions(headers=dict(headers), httpx_client=http)
        pq = PictureQueue(client=create_client(url, "a-key", sync_options))
        assert pq._backend.api is not None
        watch = sync_follow._duplicate_for_caller(pq._backend.api)
        assert (await watch.client()).postgrest.headers["x-gateway"] == "open"
        await watch.aclose()


async def test_separate_connections_use_the_tls_settings_of_the_callers_client():
    """The project may be behind a proxy with a certificate of the company."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    rpc = _rpc.picture_queue_version()
    with Api(server_context).serving() as api:
        url = api.url.replace("http:", "https:")
        async with httpx.AsyncClient(verify=context) as http:
            supabase = await acreate_client(url, "a-key", AsyncClientOptions(httpx_client=http))
            heartbeat = await duplicate.for_thread(AsyncPictureQueue(client=supabase)._backend)
            assert (await asyncio.to_thread(heartbeat.call, rpc, 5)).version == "1"
            heartbeat.close()
        with httpx.Client(verify=context) as sync_http:
            sync_supabase = create_client(url, "a-key", ClientOptions(httpx_client=sync_http))
            pq = PictureQueue(client=sync_supabase)
            assert pq._backend.api is not None
            watch = sync_follow._duplicate_for_caller(pq._backend.api)
            assert (await watch.call(rpc, Deadline(5))).version == "1"
            await watch.aclose()
