"""Jobs whose payload Python cannot parse. Callers of the SQL functions can enqueue such jobs."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue import JobStatus, Worker, WorkerSettings

from ..signals import watch

LONG_NUMBER_SQL = """jsonb_build_object('n', ('1' || repeat('0', 5000))::numeric)"""
DEEP_NESTING_SQL = """('{"a": ' || repeat('[', 3000) || repeat(']', 3000) || '}')::jsonb"""


@pytest.fixture(params=[LONG_NUMBER_SQL, DEEP_NESTING_SQL], ids=["a long number", "deep nesting"])
async def jobs(
    service: Any, queue: str, db: Any, request: pytest.FixtureRequest
) -> AsyncIterator[list[Any]]:
    """Five jobs, of which the third has an unreadable payload."""
    enqueued = [await service.jobs.enqueue("resize", {"n": n}, queue=queue) for n in range(5)]
    await db.execute(
        f"update job_queue set payload = {request.param} where id = $1",
        enqueued[2].id,
    )
    yield enqueued
    # Other tests list the jobs of this database, and Python's JSON decoder cannot read this row.
    await db.execute("delete from job_queue where id = $1", enqueued[2].id)


async def test_only_the_unreadable_job_fails(service, queue, jobs, caplog):
    worker = Worker(service, WorkerSettings(queues=(queue,), poll_interval=30))
    watch(worker)
    ran: list[int] = []

    @worker.handler("resize")
    async def resize(payload: dict[str, int]) -> None:
        ran.append(payload["n"])

    async with worker:
        for _ in jobs:
            await worker._signals.reported.next()
    assert sorted(ran) == [0, 1, 3, 4]
    listed = {job.id: job for job in await service.jobs.list(queue=queue)}
    failed = listed.pop(jobs[2].id)
    assert (failed.status, failed.attempt) == (JobStatus.FAILED, 1)
    assert failed.error is not None and failed.error.startswith("The job cannot be read: payload: ")
    assert {job.status for job in listed.values()} == {JobStatus.COMPLETED}
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(failed.id) in record.getMessage()


async def test_a_list_contains_the_other_jobs_if_one_is_unreadable(service, queue, jobs):
    listed = {job.id: job.payload for job in await service.jobs.list(queue=queue)}
    assert listed.keys() == {job.id for job in jobs}
    assert [listed[job.id] for job in jobs if job is not jobs[2]] == [
        {"n": n} for n in range(5) if n != 2
    ]
    assert listed[jobs[2].id].keys() == {"unreadable"}
    assert (await service.jobs.get(jobs[2].id)).payload == listed[jobs[2].id]
