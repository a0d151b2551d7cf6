"""If a response is lost, the client repeats the call and gets the answer of the first call."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from picture_queue import AsyncPictureQueue, JobStatus, _rpc, errors
from picture_queue._rpc import Rpc
from picture_queue._transport.base import Deadline


@pytest.fixture
def lose_response(
    service: AsyncPictureQueue, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """Return a function that drops the next response to calls of an SQL function.

    The database has committed the call, and the client repeats it. The function returns a dict
    that counts the calls of each SQL function.
    """
    transport = service._backend._transport
    original = transport.call
    calls: dict[str, int] = {}

    async def call(rpc: Rpc[Any], deadline: Deadline) -> Any:
        answer = await original(rpc, deadline)
        if rpc.function in calls:
            calls[rpc.function] += 1
            if calls[rpc.function] == 1:
                raise errors.ConnectionFailed("the response was lost")
        return answer

    monkeypatch.setattr(transport, "call", call)

    def lose_response(function: str) -> dict[str, int]:
        calls[function] = 0
        return calls

    return lose_response


async def enqueue_parked_job(service, db, name: str, queue: str):
    """Enqueue a job that is parked until the event `name`; return its id."""
    enqueued = await service.jobs.enqueue("x", queue=queue)
    claimed = await db.fetchval("select claim_jobs('w', array[$1], array['x'], 1, 30)", queue)
    assert str(enqueued.id) in claimed
    await db.execute(
        """select report_jobs(jsonb_build_array(jsonb_build_object(
          'job_id', j.id, 'lease_id', j.lease_id, 'outcome', 'parked', 'event', $2::text,
          'delay_seconds', 3600))) from job_queue j where j.id = $1""",
        enqueued.id,
        name,
    )
    assert (await service.jobs.get(enqueued.id)).hold == "parked"
    return enqueued.id


async def test_a_repeated_event_wakes_once_and_returns_the_same_count(
    service, db, queue, lose_response
):
    name = f"event-{uuid4()}"
    await enqueue_parked_job(service, db, name, queue)
    calls = lose_response("send_event")
    assert await service.events.send(name, {"n": 1}) == 1
    assert calls == {"send_event": 2}
    # An event that wakes no job is stored for the next job that parks; the repeated call is not.
    assert (
        await db.fetchval("select count(*) from picture_queue.external_event where name = $1", name)
        == 0
    )


async def test_an_event_with_an_event_id_is_idempotent(service, db, queue):
    name = f"event-{uuid4()}"
    await enqueue_parked_job(service, db, name, queue)
    assert await service.events.send(name, 1, event_id="evt_1") == 1
    await enqueue_parked_job(service, db, name, f"{queue}-2")
    # The event_id was sent before, so the call returns the first answer and wakes no job.
    assert await service.events.send(name, 1, event_id="evt_1") == 1
    assert await service.events.send(f"{name}-other", 1, event_id="evt_1") == 0
    assert await service.events.send(name, 2, event_id="evt_2") == 1
    with pytest.raises(errors.InvalidArgument, match="event_id"):
        await service.events.send(name, 2, event_id="x" * 201)


async def test_a_repeated_retry_succeeds_although_the_job_was_claimed_meanwhile(
    service, db, queue, lose_response, monkeypatch
):
    enqueued = await service.jobs.enqueue("x", queue=queue)
    await service.jobs.cancel(enqueued.id)
    lose_response("retry_job")
    transport = service._backend._transport
    call = transport.call

    async def claim_between(rpc, deadline):
        try:
            return await call(rpc, deadline)
        finally:
            if rpc.function == "retry_job":
                await db.execute("select claim_jobs('w', array[$1], array['x'], 1, 30)", queue)

    monkeypatch.setattr(transport, "call", claim_between)
    assert (await service.jobs.retry(enqueued.id)).status is JobStatus.PROCESSING
    with pytest.raises(errors.JobRunning):  # Another retry has its own request id.
        await service.jobs.retry(enqueued.id)


async def test_a_repeated_cancel_returns_the_first_answer_although_the_job_ended_meanwhile(
    service, db, queue, lose_response, monkeypatch
):
    enqueued = await service.jobs.enqueue("x", queue=queue)
    await db.execute("select claim_jobs('w', array[$1], array['x'], 1, 30)", queue)
    lose_response("cancel_job")
    transport = service._backend._transport
    call = transport.call

    async def complete_between(rpc, deadline):
        try:
            return await call(rpc, deadline)
        finally:
            if rpc.function == "cancel_job":
                await db.execute(
                    """select report_jobs(jsonb_build_array(jsonb_build_object('job_id', j.id,
                      'lease_id', j.lease_id, 'outcome', 'completed'))) from job_queue j
                    where j.id = $1""",
                    enqueued.id,
                )

    monkeypatch.setattr(transport, "call", complete_between)
    request = await service.jobs.cancel(enqueued.id)
    assert (request.status, request.cancel_requested) == (JobStatus.PROCESSING, True)
    with pytest.raises(errors.JobFinished):  # Another cancel has its own request id.
        await service.jobs.cancel(enqueued.id)


async def test_a_repeated_cancel_of_a_generation_returns_the_first_answer(
    service, db, lose_response
):
    started = await service.generations.start("a boat")
    lose_response("cancel_generation")
    first = await service.generations.cancel(started.id)
    assert first.status is JobStatus.CANCELLED
    assert (await service.generations.cancel(started.id)) == first


async def test_a_repeated_change_of_many_jobs_returns_the_first_counts(
    service, queue, lose_response
):
    jobs = [{"job_type": "x", "queue": queue} for _ in range(3)]
    await service.jobs.enqueue_many(jobs)
    lose_response("change_jobs")
    assert (await service.jobs.change("cancel", queue=queue)).changed == 3
    assert (await service.jobs.change("cancel", queue=queue)).changed == 0
    await service.jobs.enqueue_many(jobs)
    lose_response("purge_queue")
    purged = await service.queues.purge(queue)
    assert (purged.matched, purged.changed) == (3, 3)


async def test_log_lines_of_a_repeated_call_are_stored_once(service, db, queue, lose_response):
    enqueued = await service.jobs.enqueue("x", queue=queue)
    await db.execute("select claim_jobs('w', array[$1], array['x'], 1, 30)", queue)
    lease = await db.fetchval("select lease_id from job_queue where id = $1", enqueued.id)
    now = datetime.now(UTC)
    lines = [{"at": now, "level": "info", "message": message} for message in ("a", "b")]
    lose_response("log_job")
    await service._backend.call(_rpc.log_job(enqueued.id, lease, lines))
    # Equal lines without a time are all stored.
    await service._backend.call(_rpc.log_job(enqueued.id, lease, [{"message": "b"}] * 2))
    log = (await service.jobs.history(enqueued.id)).log
    assert [line.message for line in log] == ["a", "b", "b", "b"]


async def test_a_repeated_delete_of_a_limit_or_schedule_succeeds(service, queue, lose_response):
    await service.limits.set(f"x:{queue}", max_running=1)
    lose_response("delete_limit")
    await service.limits.delete(f"x:{queue}")
    with pytest.raises(errors.LimitNotFound):
        await service.limits.delete(f"x:{queue}")
    await service.schedules.set(queue, "x", every=3600, queue=queue)
    lose_response("delete_schedule")
    assert await service.schedules.delete(queue) is True
    assert await service.schedules.delete(queue) is False


async def test_repeated_enqueues_report_new_jobs_as_created(service, queue, lose_response):
    due = datetime.now(UTC) + timedelta(hours=1)
    lose_response("enqueue_job")
    assert (await service.jobs.enqueue("x", queue=queue)).outcome == "created"
    lose_response("enqueue_jobs")
    assert (await service.jobs.enqueue("x", queue=queue, scheduled_for=due)).outcome == "created"
    with_key = {"job_type": "x", "queue": queue, "idempotency_key": queue}
    lose_response("enqueue_jobs")
    enqueued = await service.jobs.enqueue_many(
        [with_key, with_key, {"job_type": "x", "queue": queue}]
    )
    assert [job.outcome for job in enqueued] == ["created", "existing", "created"]
    assert enqueued[0].id == enqueued[1].id
    (repeated,) = await service.jobs.enqueue_many([with_key])
    assert (repeated.outcome, repeated.id) == ("existing", enqueued[0].id)
    lose_response("enqueue_batch")
    batch = await service.batches.enqueue([{"job_type": "x", "queue": queue}] * 2)
    assert [job.outcome for job in batch.jobs] == ["created"] * 2
    own_ids = [{"job_type": "x", "queue": queue, "job_id": uuid4()} for _ in range(3)]
    lose_response("enqueue_jobs")
    assert (await service.jobs.enqueue(**own_ids[0])).outcome == "created"
    assert (await service.jobs.enqueue(**own_ids[0])).outcome == "existing"
    lose_response("enqueue_jobs")
    enqueued = await service.jobs.enqueue_many(own_ids[:2])
    assert [job.outcome for job in enqueued] == ["existing", "created"]
    batch_id = uuid4()
    lose_response("enqueue_batch")
    batch = await service.batches.enqueue(own_ids[2:], batch_id=batch_id)
    assert [job.outcome for job in batch.jobs] == ["created"]
    batch = await service.batches.enqueue(own_ids[2:], batch_id=batch_id)
    assert [job.outcome for job in batch.jobs] == ["existing"]
    await service.schedules.set(queue, "x", every=3600, queue=queue)
    lose_response("run_schedule")
    assert (await service.schedules.run(queue)).outcome == "created"
    with suppress(errors.ScheduleNotFound):
        await service.schedules.delete(queue)
    assert len(await service.jobs.list(queue=queue)) == 10


async def test_a_repetition_before_the_commit_of_the_first_call_raises_busy(stack, db, queue):
    first_connection = await asyncpg.connect(stack.db_url, timeout=10)
    request_id = uuid4()
    await db.execute("select set_limit($1, 1)", f"x:{queue}")
    try:
        first_call = first_connection.transaction()
        await first_call.start()
        await first_connection.execute("select delete_limit($1, $2)", f"x:{queue}", request_id)
        with pytest.raises(asyncpg.PostgresError, match="PQ_BUSY"):
            await db.execute("select delete_limit($1, $2)", f"x:{queue}", request_id)
        await first_call.commit()
        await db.execute("select delete_limit($1, $2)", f"x:{queue}", request_id)
    finally:
        await first_connection.close(timeout=5)


async def test_a_repeated_start_of_a_generation_reserves_once(service, lose_response):
    user = uuid4()
    await service.budgets.set(f"user:{user}", needs_credits=True, per_minute=1)
    lose_response("grant_credits")
    calls = lose_response("start_generation")
    assert (await service.accounts.grant(user, 0.005)).credits_usd == 0.005
    started = await service.generations.start("a cat", user_id=user)
    assert (calls["grant_credits"], calls["start_generation"]) == (2, 2)
    entries = await service.accounts.ledger(user_id=user)
    assert [entry.phase for entry in entries] == ["reserve", "grant"]
    assert (await service.accounts.get(user)).credits_usd == 0.002
    await service.generations.cancel(started.id)


async def test_a_repeated_delete_of_a_budget_succeeds(service, lose_response):
    key = f"plan:{uuid4().hex}"
    await service.budgets.set(key, per_minute=1)
    calls = lose_response("delete_budget")
    await service.budgets.delete(key)
    assert calls["delete_budget"] == 2
