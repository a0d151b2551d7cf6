"""A real pooler in transaction mode, where each statement may use another session."""

import asyncio
import re

import asyncpg
import pytest

from picture_queue import AsyncPictureQueue, PictureQueue, Worker, WorkerSettings
from picture_queue._realtime import notifications
from tests.conformance import pooler

from ..signals import watch

pytestmark = pytest.mark.extra


@pytest.fixture
def pooled(stack):
    """The address of a PgBouncer in front of the stack's database."""
    if pooler.find_pgbouncer() is None:
        pytest.fail(f"PgBouncer is missing: {pooler.INSTALL_COMMAND}", pytrace=False)
    with pooler.run_pgbouncer(stack.db_url) as address:
        yield address


async def test_the_pooler_refuses_a_wrong_password(pooled):
    # Every user of the machine can reach its port.
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(re.sub(":[^:@]*@", ":any@", pooled), timeout=10)
    connection = await asyncpg.connect(pooled, timeout=10)
    await connection.close()


async def test_concurrent_calls_get_their_own_answers(pooled, queue):
    async with AsyncPictureQueue(database_url=pooled) as pq:
        names = [f"job-{i}" for i in range(300)]
        enqueued = await asyncio.gather(*(pq.jobs.enqueue(name, queue=queue) for name in names))
        jobs = await asyncio.gather(*(pq.jobs.get(job.id) for job in enqueued))
        assert [job.job_type for job in jobs] == names


def test_sync_calls_get_their_own_answers(pooled, queue):
    with PictureQueue(database_url=pooled) as pq:
        enqueued = pq.jobs.enqueue_many({"job_type": f"job-{i}", "queue": queue} for i in range(50))
        assert [pq.jobs.get(job.id).job_type for job in enqueued] == [f"job-{i}" for i in range(50)]


async def test_a_worker_polls_because_listen_does_not_work(pooled, queue, monkeypatch):
    monkeypatch.setattr(notifications, "_TEST_TIMEOUT", 0.5)
    log_messages = asyncio.Queue()
    monkeypatch.setattr(notifications._log, "info", log_messages.put_nowait)
    async with AsyncPictureQueue(database_url=pooled) as pq:
        worker = Worker(pq, WorkerSettings(queues=(queue,), poll_interval=0.1))
        watch(worker)

        @worker.handler("square")
        async def square(payload):
            return payload["n"] ** 2

        async with worker:
            assert "Notifications do not arrive" in await asyncio.wait_for(log_messages.get(), 15)
            assert not worker._supervisor._claimer.receives_wake_ups
            jobs = [await pq.jobs.enqueue("square", {"n": n}, queue=queue) for n in range(20)]
            results = [await pq.jobs.result(job.id, timeout=15) for job in jobs]
    assert results == [n**2 for n in range(20)]
