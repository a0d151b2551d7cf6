"""Calls of a worker by pg_cron and pg_net, and the doctor's check of them."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import asyncpg
import pytest

from .conftest import transaction

URL, SECRET = "https://worker.example.com/process-jobs", "a-secret-of-the-worker-for-tests"
CRON = """
create schema cron;
create table cron.job (jobid bigint generated always as identity, jobname text unique,
  schedule text, command text, active boolean not null default true);
create function cron.schedule(text, text, text) returns bigint language sql as $$
  insert into cron.job (jobname, schedule, command) values ($1, $2, $3)
  on conflict (jobname) do update set schedule = $2, command = $3 returning jobid
$$;
"""


async def set_up(db: Any, url: str | None = URL, secret: str | None = SECRET) -> str:
    return await db.value("select picture_queue.schedule_worker_calls($1, $2)", url, secret)


async def vault_secret(db: Any, name: str) -> str:
    return await db.value(
        "select decrypted_secret from vault.decrypted_secrets where name = $1", name
    )


async def finding(db: Any) -> tuple[str, str]:
    (found,) = await db.findings("worker calls")
    assert SECRET not in json.dumps(found) and URL not in json.dumps(found)
    return found["verdict"], found["detail"]


async def test_the_url_and_the_secret_are_kept_in_vault(db):
    await db.run(CRON)
    assert await set_up(db) == "scheduled"
    assert await vault_secret(db, "picture_queue_worker_url") == URL
    assert await vault_secret(db, "picture_queue_worker_secret") == SECRET
    command = await db.value("select command from cron.job where jobname = 'process-job-queue'")
    assert command == "select picture_queue.maintain(); select picture_queue.call_worker()"
    # Another URL, with the same secret.
    assert await set_up(db, "http://127.0.0.1:8080/process-jobs", None) == "scheduled"
    assert await vault_secret(db, "picture_queue_worker_secret") == SECRET
    assert await set_up(db, None, None) == "not called any more"
    assert await db.value("select picture_queue.call_worker()") == "not set up"


async def test_a_secret_is_made_if_none_is_given(db):
    await db.run(CRON)
    assert await set_up(db, URL, None) == "scheduled"
    assert len(await vault_secret(db, "picture_queue_worker_secret")) == 64


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("http://worker.example.com/process-jobs", SECRET),
        ("http://127.0.0.1.example.com/x", SECRET),
        ("https://user:password@worker.example.com/", SECRET),
        ("https://", SECRET),
        ("file:///etc/passwd", SECRET),
        ("https://a b", SECRET),
        ("https://a/" + "x" * 2000, SECRET),
        ("", SECRET),
        (URL, "short"),
        (URL, "a secret with blanks in it, which is long"),
        (URL, "ä" * 30),
        (URL, ""),
    ],
)
async def test_an_unusable_url_or_secret_is_refused_without_showing_it(db, url, secret):
    with pytest.raises(asyncpg.PostgresError, match="PQ_INVALID_ARGUMENT") as raised:
        await set_up(db, url, secret)
    assert "password" not in str(raised.value.detail)


async def test_a_missing_pg_cron_is_named(db):
    assert await set_up(db) == "pg_cron is not installed"
    assert await finding(db) == (
        "bad",
        "the worker is not called: pg_cron is not installed, or process-job-queue does not call it",
    )


async def test_the_doctor_finds_a_missing_call_and_its_remedy_solves_it(db):
    assert await finding(db) == ("ok", "not set up: workers claim jobs by themselves")
    await db.run(CRON)
    await set_up(db)
    assert (await finding(db))[0] == "ok"
    await db.run("update cron.job set command = 'select 1' where jobname = 'process-job-queue'")
    assert (await finding(db))[0] == "bad"
    await db.run("select picture_queue.schedule_maintenance()")
    assert (await finding(db))[0] == "ok"
    await db.run("delete from vault.secrets where name = 'picture_queue_worker_secret'")
    assert "no secret picture_queue_worker_secret" in (await finding(db))[1]


async def test_the_worker_is_called_only_if_a_job_is_due(db):
    await db.run(CRON)
    await set_up(db)
    await db.run(
        "update job_queue set hold = 'scheduled', scheduled_for = now() + interval '1 day' "
        "where status = 'pending' and hold is null"
    )
    assert await db.value("select picture_queue.call_worker()") == "no job is due"
    await db.enqueue()
    assert await db.value("select picture_queue.call_worker()") == "called"


async def test_a_failing_call_does_not_undo_the_maintenance(db):
    await db.run(CRON)
    await set_up(db)
    job_id = await db.enqueue(scheduled_for=datetime.now(UTC) + timedelta(hours=1))
    await db.run("update job_queue set scheduled_for = now() where id = $1", job_id)
    vault_id = await db.value(
        "select id from vault.decrypted_secrets where name = 'picture_queue_worker_url'"
    )
    await db.value("select vault.update_secret($1, 'gopher://x')", vault_id)
    await db.run(await db.value("select command from cron.job where jobname = 'process-job-queue'"))
    assert (await db.job(job_id))["hold"] is None
    assert await db.value("select picture_queue.call_worker()") == "failed"


async def test_only_the_owner_may_read_the_settings_and_call(db):
    for role in ("anon", "authenticated", "service_role"):
        for call in (
            "picture_queue.call_worker()",
            "picture_queue.schedule_worker_calls(null)",
            "picture_queue._vault_secret('x')",
            "net.http_post('https://example.com')",
            "vault.create_secret('x')",
        ):
            async with db.connection.transaction():
                await db.run(f"set local role {role}")
                refused = await db.refusal(f"select {call}")
                assert refused.sqlstate == "42501", (role, call)
                await db.run("set local role postgres")


async def test_functions_of_a_role_without_trust_are_not_called(db):
    await db.run(CRON)
    await set_up(db)
    await db.enqueue()
    assert await db.value("select picture_queue._trusts_function('net', 'http_post')")
    assert not await db.value("select picture_queue._trusts_function('net', 'unknown')")
    await db.run(
        "create role untrusted_owner; grant untrusted_owner to postgres; create schema fake; "
        "grant create, usage on schema fake to untrusted_owner; set local role untrusted_owner; "
        "create function fake.http_post() returns bigint language sql as 'select 1::bigint'"
    )
    await db.run("set local role postgres")
    assert not await db.value("select picture_queue._trusts_function('fake', 'http_post')")


class Worker:
    """An HTTP server in place of a worker. It records the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str | None]] = []
        self.status = 200
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                authorization = self.headers["authorization"]
                worker.requests.append((self.command, self.path, authorization))
                self.send_response(worker.status)
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/process-jobs"


@pytest.fixture
async def worker(stack: Any) -> AsyncIterator[Worker]:
    worker = Worker()
    thread = Thread(target=worker.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield worker
    worker.server.shutdown()
    worker.server.server_close()
    owner = await asyncpg.connect(stack.db_url)
    await owner.execute("delete from vault.secrets where name like 'picture_queue_worker_%'")
    await owner.close()


async def test_the_request_has_the_secret_and_the_doctor_shows_its_answer(stack, worker, until):
    owner = await asyncpg.connect(stack.db_url)
    try:
        await owner.execute(
            "select picture_queue.schedule_worker_calls($1, $2)", worker.url, SECRET
        )
        job_id = await owner.fetchval("select enqueue_job('nobody-runs-it')")
        for status, verdict in ((200, "ok"), (401, "bad"), (500, "bad")):
            worker.requests.clear()
            worker.status = status
            assert await owner.fetchval("select picture_queue.call_worker()") == "called"

            async def is_answered() -> bool:
                return await owner.fetchval(
                    "select exists (select from net._http_response r "
                    "join picture_queue.maintenance m on m.worker_call_id = r.id)"
                )

            await until(is_answered)
            assert worker.requests == [("POST", "/process-jobs", f"Bearer {SECRET}")]
            async with transaction(stack.db_url) as db:
                await db.run(CRON)
                await db.run("select picture_queue.schedule_maintenance()")
                (found,) = await db.findings("worker calls")
            assert found["verdict"] == verdict
            assert found["detail"] == f"the last call was answered with status {status}"
        await owner.execute("select cancel_job($1)", job_id)
    finally:
        await owner.close()
