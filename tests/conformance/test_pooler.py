"""Behind a real pooler in transaction mode, where each statement may meet another session."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from urllib.parse import urlsplit

import pytest

from picture_queue import AsyncPictureQueue, PictureQueue, Worker, WorkerSettings
from picture_queue._realtime import notifications

pytestmark = pytest.mark.extra

CONFIGURATION = """
[databases]
postgres = host={host} port={server} dbname=postgres user=postgres password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_reset_query =
"""


@pytest.fixture
def pooled(stack, tmp_path_factory):
    """The address of a PgBouncer before the stack's database."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.fail("PgBouncer is missing: apt-get install pgbouncer", pytrace=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = urlsplit(stack.db_url)
    directory = tmp_path_factory.mktemp("pooler")
    file = directory / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(
            host=server.hostname, server=server.port, password=server.password, port=port
        )
    )
    # It refuses to be root.
    as_nobody = ("-u", "nobody") if os.getuid() == 0 else ()
    for path in (file, directory, *directory.parents[:2]):
        path.chmod(0o755)
    process = subprocess.Popen([program, *as_nobody, file], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                probe.settimeout(0.1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail("PgBouncer does not listen")
        yield f"postgresql://postgres:any@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(10)


async def test_calls_at_once_find_their_answers(pooled, queue):
    async with AsyncPictureQueue(database_url=pooled) as pq:
        names = [f"job-{i}" for i in range(300)]
        made = await asyncio.gather(*(pq.jobs.enqueue(name, queue=queue) for name in names))
        found = await asyncio.gather(*(pq.jobs.get(one.id) for one in made))
        assert [job.job_type for job in found] == names


def test_so_do_sync_callers(pooled, queue):
    with PictureQueue(database_url=pooled) as pq:
        made = pq.jobs.enqueue_many({"job_type": f"job-{i}", "queue": queue} for i in range(50))
        assert [pq.jobs.get(one.id).job_type for one in made] == [f"job-{i}" for i in range(50)]


async def test_a_worker_trusts_no_listen_there_and_lives_on_polling(pooled, queue, monkeypatch):
    monkeypatch.setattr(notifications, "_ECHO", 0.5)
    said = asyncio.Queue()
    monkeypatch.setattr(notifications._log, "info", said.put_nowait)
    async with AsyncPictureQueue(database_url=pooled) as pq:
        worker = Worker(pq, WorkerSettings(queues=(queue,), poll_interval=0.1))
        worker._signals.watch()

        @worker.handler("square")
        async def square(payload):
            return payload["n"] ** 2

        async with worker:
            assert "LISTEN does not work" in await asyncio.wait_for(said.get(), 15)
            assert not worker._supervisor._claimer.hears_wake_ups
            jobs = [await pq.jobs.enqueue("square", {"n": n}, queue=queue) for n in range(20)]
            results = [await pq.jobs.result(job.id, timeout=15) for job in jobs]
    assert results == [n**2 for n in range(20)]
