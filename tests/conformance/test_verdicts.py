"""Outcomes that a handler returns or raises (Snooze, Retry, Park …), and the context of its job."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from picture_queue import (
    Cancel,
    JobCancelled,
    JobContext,
    JobFailed,
    JobStatus,
    Park,
    RateLimited,
    Retry,
    Snooze,
)
from picture_queue.worker import SyncJobContext


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


async def test_a_snooze_until_a_time_uses_up_no_attempt(service, queue, new_worker, wait_for_job):
    worker = new_worker()
    until = in_an_hour()

    @worker.handler("patient")
    async def patient() -> None:
        raise Snooze(until=until)

    job = await service.jobs.enqueue("patient", queue=queue, max_attempts=1)
    async with worker:
        snoozed = await wait_for_job(job.id, lambda event: event.hold == "scheduled")
    assert (snoozed.scheduled_for, snoozed.attempt) == (until, 0)


async def test_a_retry_has_the_delay_of_the_handler_and_uses_up_an_attempt(
    service, queue, new_worker, wait_for_job, db
):
    worker = new_worker(poll_interval=0.05)
    at = in_an_hour()

    @worker.handler("needs_retries", backoff=3000)
    async def needs_retries(job: JobContext) -> str | Retry:
        match job.attempt:
            case 1:
                raise Retry(0.01, reason="The file is not there yet")
            case 2:
                return Retry(at=at)
        return "never"

    job = await service.jobs.enqueue("needs_retries", queue=queue)
    async with worker:
        waiting = await wait_for_job(job.id, lambda e: e.hold == "scheduled" and e.attempt == 2)
    assert (waiting.scheduled_for, waiting.attempt) == (at, 2)
    errors = await db.fetch(
        "select error, detail from picture_queue.history where job_id = $1 order by id", job.id
    )
    assert [row["error"] for row in errors if row["error"]] == [
        "The file is not there yet",
        "The handler asked for another attempt",
    ]
    assert any("in needs_retries" in (row["detail"] or "") for row in errors)


async def test_a_retry_without_an_attempt_left_fails(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("needs_retries")
    def needs_retries() -> Retry:
        return Retry(0.01, reason="The file is not there")

    job = await service.jobs.enqueue("needs_retries", queue=queue, max_attempts=1)
    async with worker:
        with pytest.raises(JobFailed, match="The file is not there"):
            await service.jobs.result(job.id, timeout=15)


async def test_a_rate_limit_pauses_the_whole_queue(service, queue, new_worker, db):
    worker = new_worker(concurrency=1, poll_interval=0.05)
    clock = asyncio.get_running_loop().time
    starts: list[float] = []

    @worker.handler("calls")
    async def calls() -> None:
        starts.append(clock())
        if len(starts) == 1:
            raise RateLimited(0.7)

    jobs = await service.jobs.enqueue_many({"job_type": "calls", "queue": queue} for _ in range(5))
    async with worker:
        for job in jobs:
            await service.jobs.result(job.id, timeout=15)
    assert len(starts) == 6
    assert min(starts[1:]) - starts[0] >= 0.7
    assert {job.attempt for job in await service.jobs.list(queue=queue)} == {1}


async def test_a_rate_limit_of_a_key_does_not_affect_other_jobs(service, queue, new_worker, db):
    worker = new_worker(concurrency=1, poll_interval=0.05)
    key = f"api:{queue}"
    ran: list[str] = []

    @worker.handler("calls")
    def calls(payload: dict[str, str]) -> None:
        ran.append(payload["name"])
        if payload["name"] == "first":
            raise RateLimited(3600, key=key)

    limited = [
        await service.jobs.enqueue("calls", {"name": name}, queue=queue, limit_keys=[key])
        for name in ("first", "next")
    ]
    free = await service.jobs.enqueue("calls", {"name": "free"}, queue=queue)
    async with worker:
        await service.jobs.result(free.id, timeout=15)
        await worker._signals.idle.next()
    assert ran == ["first", "free"]
    for enqueued in limited:
        job = await service.jobs.get(enqueued.id)
        assert (job.status, job.attempt) == (JobStatus.PENDING, 0)
    paused_for = await db.fetchval(
        "select paused_until - now() from picture_queue.limit_key where key = $1", key
    )
    assert timedelta(minutes=59) < paused_for <= timedelta(hours=1)


@pytest.mark.parametrize("first", ["event", "park"])
async def test_an_event_before_or_after_the_park_wakes_the_job(
    service, queue, new_worker, wait_for_job, db, first
):
    worker = new_worker(poll_interval=0.05)
    name = f"paid:{queue}"

    async def pay() -> None:
        await db.execute("select send_event($1, $2)", name, '{"amount": 3}')

    @worker.handler("order")
    async def order(job: JobContext) -> Any:
        if job.event is not None:
            return job.event
        if first == "event":
            await pay()
        return Park(3600, event=name)

    job = await service.jobs.enqueue("order", queue=queue, max_attempts=1)
    async with worker:
        if first == "park":
            await wait_for_job(job.id, lambda event: event.hold == "parked")
            await pay()
        assert await service.jobs.result(job.id, timeout=15) == {"amount": 3}
    assert (await service.jobs.get(job.id)).attempt == 1


async def test_a_parked_job_waits_for_its_own_id_by_default(
    service, queue, new_worker, wait_for_job, db
):
    worker = new_worker(poll_interval=0.05)

    @worker.handler("order")
    def order(job: SyncJobContext) -> Any:
        return job.event or Park(3600)

    job = await service.jobs.enqueue("order", queue=queue)
    async with worker:
        await wait_for_job(job.id, lambda event: event.hold == "parked")
        await db.execute("select send_event($1, '\"here\"')", str(job.id))
        assert await service.jobs.result(job.id, timeout=15) == "here"


async def test_a_cancel_can_be_raised_in_a_nested_task(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("needless")
    async def needless() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(find_out())

    async def find_out() -> None:
        raise Cancel

    job = await service.jobs.enqueue("needless", queue=queue)
    async with worker:
        with pytest.raises(JobCancelled):
            await service.jobs.result(job.id, timeout=15)


async def test_a_handler_can_read_the_tags_and_metadata_of_its_job(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("tagged")
    def tagged(job: SyncJobContext) -> Any:
        return [job.tags, job.metadata, job.event]

    job = await service.jobs.enqueue(
        "tagged", queue=queue, tags=["a", "b"], metadata={"order": {"n": 7}}
    )
    bare = await service.jobs.enqueue("tagged", queue=queue)
    async with worker:
        result = await service.jobs.result(job.id, timeout=15)
        assert result == [["a", "b"], {"order": {"n": 7}}, None]
        assert await service.jobs.result(bare.id, timeout=15) == [[], {}, None]


async def test_queues_with_weights_get_their_shares(service, queue, new_worker, db):
    small, big = f"{queue}-small", f"{queue}-big"
    worker = new_worker(queues={small: 1, big: 3}, concurrency=4)
    starts: list[str] = []
    enough = asyncio.Event()

    @worker.handler("count")
    async def count(job: JobContext) -> None:
        starts.append(job.queue)
        if len(starts) == 240:
            enough.set()

    await service.jobs.enqueue_many(
        {"job_type": "count", "queue": name} for name in (small, big) for _ in range(240)
    )
    async with worker:
        await asyncio.wait_for(enough.wait(), 30)
    # By the weights, 180 of 240 jobs are expected from the queue `big`. The standard deviation is
    # below 7, and the bounds are 7 standard deviations away.
    assert 130 < starts[:240].count(big) < 230
