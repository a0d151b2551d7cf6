"""Housekeeping and calls of a worker by a real pg_cron, on Debian's Postgres 15."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import uvicorn

from picture_queue import AsyncPictureQueue, Worker, WorkerSettings
from picture_queue.local.stack import LocalSupabase
from picture_queue.web import WebSettings, create_app

pytestmark = [pytest.mark.extra, pytest.mark.timeout(300)]

BIN = Path("/usr/lib/postgresql/15/bin")
CONTROL = Path("/usr/share/postgresql/15/extension/pg_cron.control")


@pytest.fixture(scope="module")
def cron_stack() -> Iterator[LocalSupabase]:
    """A stack whose Postgres preloads the library pg_cron, without the extension."""
    if not (BIN / "postgres").exists() or not CONTROL.exists():
        pytest.fail("pg_cron is missing: apt-get install postgresql-15-cron", pytrace=False)
    directory = Path(tempfile.mkdtemp(prefix="picture-queue-cron-"))
    directory.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(BIN))
        try:
            with LocalSupabase(directory / "data", durable=False):
                pass
            with (directory / "data" / "postgres" / "postgresql.conf").open("a") as settings:
                settings.write(
                    "shared_preload_libraries = 'pg_cron'\ncron.use_background_workers = on\n"
                )
            with LocalSupabase(directory / "data", durable=False) as stack:
                yield stack
        finally:
            shutil.rmtree(directory)


@pytest.fixture
async def owner(cron_stack: LocalSupabase) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection as the role `postgres`, with the extension created as by the dashboard."""
    admin = await asyncpg.connect(cron_stack.superuser_url)
    await admin.execute(
        "create extension if not exists pg_cron; grant usage on schema cron to postgres; "
        "grant select on cron.job, cron.job_run_details to postgres"
    )
    await admin.close()
    connection = await asyncpg.connect(cron_stack.db_url)
    yield connection
    await connection.close()


async def test_pg_cron_sweeps_promotes_and_prunes_without_any_worker(owner, until):
    assert await owner.fetchval("select picture_queue.schedule_maintenance()") == "scheduled"
    assert await owner.fetchval("select picture_queue.schedule_maintenance()") == "scheduled"
    jobs = await owner.fetch("select * from cron.job order by jobname")
    assert [(job["jobname"], job["active"]) for job in jobs] == [
        ("process-job-queue", True),
        ("prune-job-queue", True),
    ]
    assert await owner.fetchval(
        "select f ->> 'verdict' from jsonb_array_elements(queue_doctor()::jsonb) f "
        "where f ->> 'check' = 'pg_cron'"
    ) == "ok"  # fmt: skip

    queue = f"q-{uuid4().hex[:8]}"
    swept, promoted, pruned = [
        await owner.fetchval("select enqueue_job('cron-job', queue => $1)", queue) for _ in range(3)
    ]
    await owner.execute("select claim_jobs('gone', $1, '{cron-job}', 1)", [queue])
    await owner.execute(
        "update job_queue set lease_expires_at = now() - interval '1 second' where id = $1", swept
    )
    await owner.execute(
        "update job_queue set hold = 'scheduled', scheduled_for = now() where id = $1", promoted
    )
    await owner.execute(
        "update job_queue set status = 'completed', finished_at = '2020-01-01' where id = $1",
        pruned,
    )

    async def both_have_run() -> bool:
        return await owner.fetchval(
            "select count(distinct jobid) = 2 from cron.job_run_details where status = 'succeeded'"
        )

    await until(both_have_run, timeout=150)  # Each job runs at the next full minute.
    rows = await owner.fetch("select id, status, hold from job_queue where queue = $1", queue)
    assert {row["id"]: (row["status"], row["hold"]) for row in rows} == {
        swept: ("pending", None),
        promoted: ("pending", None),
    }
    failed = await owner.fetch("select * from cron.job_run_details where status = 'failed'")
    assert failed == []


async def test_pg_cron_calls_a_worker_that_runs_the_due_jobs(cron_stack, owner, until):
    queue, secret = f"q-{uuid4().hex[:8]}", "a-secret-of-the-worker-for-tests"
    async with AsyncPictureQueue(cron_stack.api_url, cron_stack.service_role_key) as pq:
        worker = Worker(pq, WorkerSettings(queues=(queue,)))

        @worker.handler(f"{queue}.add")
        async def add(payload: dict[str, int]) -> int:
            return payload["a"] + payload["b"]

        settings = WebSettings(process_secret=secret)
        app = create_app(pq, settings=settings, worker=worker)
        jobs = [
            await pq.jobs.enqueue(f"{queue}.add", {"a": 1, "b": n}, queue=queue) for n in range(3)
        ]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            serving = asyncio.create_task(server.serve([listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/process-jobs"
            scheduled = "select picture_queue.schedule_worker_calls($1, $2)"
            assert await owner.fetchval(scheduled, url, secret) == "scheduled"
            # No worker runs: pg_cron calls the route at the next full minute.
            results = [await pq.jobs.result(job.id, timeout=120) for job in jobs]
            assert results == [1, 2, 3]

            async def is_answered() -> bool:
                return await owner.fetchval(
                    "select f ->> 'detail' = 'the last call was answered with status 200' "
                    "from jsonb_array_elements(queue_doctor()::jsonb) f "
                    "where f ->> 'check' = 'worker calls'"
                )

            await until(is_answered)
            server.should_exit = True
            await asyncio.wait_for(serving, 20)
    command = "select command from cron.job where jobname = 'process-job-queue'"
    assert "picture_queue.call_worker()" in await owner.fetchval(command)
