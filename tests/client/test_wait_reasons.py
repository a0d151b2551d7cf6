"""A caller that waits for a job gets the reason why the job does not run."""

import asyncio
import logging

import pytest

from picture_queue import errors
from picture_queue._realtime import follow


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch):
    monkeypatch.setattr(follow, "EXPLAIN_INTERVAL", 0.1)
    monkeypatch.setattr(follow, "EXPLAIN_MAX_INTERVAL", 0.1)
    monkeypatch.setattr(follow, "CONNECTED_POLL_INTERVAL", 0.05)
    monkeypatch.setattr(follow, "POLL_INTERVAL", 0.05)


async def read_next_reason(watch):
    async with asyncio.timeout(15):
        while (event := await anext(watch)).explanation is None:
            pass
    return event


async def test_a_watch_yields_each_new_reason(service, queue):
    job_id = (await service.jobs.enqueue("no-handler", queue=queue)).id
    watch = service.jobs.watch(job_id, timeout=30)
    first = await anext(watch)
    waiting = await read_next_reason(watch)
    assert waiting.explanation.reason == "no_worker"
    assert "no-handler" in waiting.explanation.detail
    assert (waiting.version, waiting.status, waiting.hold) == (
        first.version,
        first.status,
        first.hold,
    )
    await service.queues.pause(queue)
    assert (await read_next_reason(watch)).explanation.reason == "queue_paused"
    await service.queues.resume(queue)
    assert (await read_next_reason(watch)).explanation.reason == "no_worker"
    await service.jobs.cancel(job_id)
    last = [event async for event in watch][-1]
    assert last.finished
    assert last.explanation is None


async def test_a_user_gets_the_reason_for_their_own_generation(ada):
    started = await ada.pq.generations.start("a cat")
    event = await read_next_reason(ada.pq.generations.watch(started.id, timeout=30))
    assert event.explanation.reason == "no_worker"


async def test_a_running_job_has_no_reason(service, queue, new_worker):
    worker = new_worker()
    may_finish = asyncio.Event()

    @worker.handler("slow")
    async def slow(payload: dict) -> None:
        await may_finish.wait()

    async with asyncio.timeout(30), worker:
        job_id = (await service.jobs.enqueue("slow", queue=queue)).id
        events = []
        async for event in service.jobs.watch(job_id):
            if event.status == "processing" and not may_finish.is_set():
                asyncio.get_running_loop().call_later(0.5, may_finish.set)
            events.append(event)
    running = [event for event in events if event.status == "processing"]
    assert [event.explanation for event in running] == [None]


async def test_result_logs_each_reason_once(service, queue, caplog):
    job_id = (await service.jobs.enqueue("no-handler", queue=queue)).id
    with (
        caplog.at_level(logging.INFO, logger="picture_queue"),
        pytest.raises(errors.WaitTimeout, match=r"within 1 s: No worker .*no-handler") as timeout,
    ):
        await service.jobs.result(job_id, timeout=1)
    assert timeout.value.explanation.reason == "no_worker"
    records = [record for record in caplog.records if "no-handler" in record.getMessage()]
    assert [record.levelname for record in records] == ["WARNING"]
    assert f"Job {job_id} (no-handler) waits: No worker" in records[0].getMessage()


async def test_the_reason_is_read_less_often_than_the_row(service, queue, monkeypatch):
    monkeypatch.setattr(follow, "EXPLAIN_MAX_INTERVAL", 60.0)
    called = []
    call = service._backend.call

    async def record_call(rpc, *args, **options):
        called.append(rpc.function)
        return await call(rpc, *args, **options)

    monkeypatch.setattr(service._backend, "call", record_call)
    job_id = (await service.jobs.enqueue("no-handler", queue=queue)).id
    with pytest.raises(errors.WaitTimeout):
        await service.jobs.result(job_id, timeout=2)
    # explain_jobs is called after 0.1, 0.3, 0.7 and 1.5 seconds, and at the deadline.
    assert 2 <= called.count("explain_jobs") <= 5
    assert called.count("get_job") > called.count("explain_jobs")


async def test_a_failed_query_for_the_reason_does_not_end_the_wait(service, queue, faults):
    job_id = (await service.jobs.enqueue("no-handler", queue=queue)).id
    await faults(answer_503=1000, path="/rest/v1/rpc/explain_jobs")
    watch = service.jobs.watch(job_id, timeout=20)
    await anext(watch)

    async def cancel_later():
        await asyncio.sleep(0.5)
        await service.jobs.cancel(job_id)

    cancelling = asyncio.create_task(cancel_later())
    assert [event async for event in watch][-1].finished
    await cancelling
