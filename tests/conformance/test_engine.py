"""All options of jobs and all operations of the engine, through the Python client."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from picture_queue import Backoff, InvalidArgument, NewJob, Unique, _rpc
from picture_queue._rpc import Claim
from picture_queue.errors import (
    BatchNotFound,
    Conflict,
    DependencyCycle,
    DependencyNotFound,
    InvalidCron,
    JobNotFound,
    JobRunning,
    LimitNotFound,
    QueueDraining,
    QueueNotFound,
    ScheduleNotFound,
    TooLarge,
)


@pytest.fixture
def job_type():
    """A job type for this test only."""
    return f"engine-{uuid4().hex[:12]}"


@pytest.fixture
def worker_calls(service, queue, job_type):
    """An object that makes the calls of a worker, for this queue and job type."""

    class WorkerCalls:
        async def claim(self, max_jobs=1):
            claim = Claim("worker", (queue,), (job_type,), max_jobs, 30.0, uuid4())
            return await service._backend.call(_rpc.claim_jobs(claim))

        async def report(self, job, outcome, **fields):
            item = {"job_id": str(job.id), "lease_id": str(job.lease_id), "outcome": outcome}
            return await service._backend.call(_rpc.report_jobs([{**item, **fields}]))

        async def claim_and_report(self, count, outcome="completed", **fields):
            jobs = await self.claim(count)
            assert len(jobs) == count
            for job in jobs:
                await self.report(job, outcome, **fields)
            return jobs

    return WorkerCalls()


# --- Enqueue ---


async def test_every_option_of_a_job_is_stored(service, queue, job_type):
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    enqueued = await service.jobs.enqueue(
        job_type,
        {"path": "a.png"},
        queue=queue,
        priority=3,
        delay=60,
        max_attempts=7,
        timeout=12.5,
        expires_at=in_an_hour,
        backoff=Backoff("linear", base=2),
        tags=["night", "cheap"],
        metadata={"ticket": 7},
        tenant="acme",
        limit_keys=["model:flux"],
    )
    assert enqueued.outcome == "created"
    job = await service.jobs.get(enqueued.id)
    assert (job.priority, job.max_attempts, job.hold) == (3, 7, "scheduled")
    assert 50 < (job.scheduled_for - job.created_at).total_seconds() <= 60
    assert abs(job.expires_at - in_an_hour) < timedelta(milliseconds=1)
    assert (job.tags, job.metadata, job.limit_keys) == (
        ("night", "cheap"),
        {"ticket": 7},
        ("model:flux",),
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"delay": -1}, r"delay_seconds is -1"),
        ({"metadata": [1]}, r"metadata is of type array, not an object"),
        ({"tags": [""]}, r"tags"),
        ({"backoff": {"policy": "sometimes"}}, r"sometimes"),
        ({"unique": Unique(states=["processing"])}, r"states"),
        ({"delay": 1, "scheduled_for": datetime.now(UTC)}, r"both given"),
        ({"colour": "red"}, r"colour is not known"),
    ],
)
async def test_the_error_names_an_invalid_option_and_nothing_is_enqueued(
    service, queue, job_type, options, expected
):
    with pytest.raises(InvalidArgument, match=expected):
        await service.jobs.enqueue_many(
            [
                NewJob(job_type=job_type, queue=queue),
                {"job_type": job_type, "queue": queue, **options},
            ]
        )
    assert await service.jobs.list(queue=queue) == []


async def test_a_payload_above_the_limit_is_refused(service, queue, job_type):
    with pytest.raises(TooLarge, match="payload"):
        await service.jobs.enqueue(job_type, {"x": "y" * 70_000}, queue=queue)


async def test_the_outcome_of_enqueueing_a_unique_job_is_returned(
    service, queue, job_type, worker_calls
):
    async def enqueue(on_conflict, **payload):
        unique = Unique(by=["id"], on_conflict=on_conflict)
        return await service.jobs.enqueue(job_type, payload, queue=queue, unique=unique)

    first = await enqueue("ignore", id=1, v=1)
    assert (await enqueue("ignore", id=1, v=2)).outcome == "existing"
    assert (await service.jobs.get(first.id)).payload["v"] == 1
    assert (await enqueue("replace", id=1, v=3)).outcome == "replaced"
    assert (await enqueue("debounce", id=1, v=4)).outcome == "debounced"
    assert (await service.jobs.get(first.id)).payload["v"] == 4
    assert (await enqueue("ignore", id=2)).outcome == "created"
    await worker_calls.claim(2)
    with pytest.raises(JobRunning, match=str(first.id)):
        await enqueue("replace", id=1, v=5)


async def test_a_child_waits_for_its_parents(service, queue, job_type, worker_calls):
    parent = await service.jobs.enqueue(job_type, queue=queue)
    child = await service.jobs.enqueue(job_type, queue=queue, depends_on=[parent.id])
    assert (await service.jobs.get(child.id)).hold == "waiting"
    assert [job.id for job in await worker_calls.claim_and_report(1)] == [parent.id]
    assert (await service.jobs.get(child.id)).hold is None


async def test_on_parent_failure_decides_whether_a_child_runs(
    service, queue, job_type, worker_calls
):
    parent, *children = await service.jobs.enqueue_many(
        [NewJob(job_type=job_type, queue=queue, job_id=(parent_id := uuid4()), max_attempts=1)]
        + [
            NewJob(job_type=job_type, queue=queue, depends_on=[parent_id], on_parent_failure=policy)
            for policy in ("cancel", "fail", "run")
        ]
    )
    await worker_calls.claim_and_report(1, "failed", error="no")
    states = [(await service.jobs.get(child.id)).status for child in children]
    assert states == ["cancelled", "failed", "pending"]
    assert parent.id == parent_id


async def test_jobs_can_only_depend_on_existing_jobs(service, queue, job_type):
    first, second = uuid4(), uuid4()
    with pytest.raises(DependencyCycle, match=str(second)):
        await service.jobs.enqueue_many(
            [
                NewJob(job_type=job_type, queue=queue, job_id=first, depends_on=[second]),
                NewJob(job_type=job_type, queue=queue, job_id=second, depends_on=[first]),
            ]
        )
    with pytest.raises(DependencyNotFound, match=str(second)):
        await service.jobs.enqueue(job_type, queue=queue, depends_on=[second])


# --- Batches and events ---


async def test_a_batch_counts_its_jobs_and_enqueues_one_callback(
    service, queue, job_type, worker_calls
):
    batch = await service.batches.enqueue(
        [NewJob(job_type=job_type, queue=queue) for _ in range(4)],
        callback=NewJob(job_type=f"{job_type}-done", payload={"to": "ada"}, queue=queue),
        metadata={"name": "holiday"},
    )
    assert [job.outcome for job in batch.jobs] == ["created"] * 4
    await worker_calls.claim_and_report(3)
    state = await service.batches.get(batch.id)
    assert (state.total, state.open, state.progress, state.callback_job_id) == (4, 1, 75, None)
    await worker_calls.claim_and_report(1, "failed", error="no", retryable=False)
    state = await service.batches.get(batch.id)
    assert (state.completed, state.failed, state.progress) == (3, 1, 100)
    assert state.metadata == {"name": "holiday"}
    (callback,) = await service.jobs.list(job_type=f"{job_type}-done")
    assert callback.id == state.callback_job_id
    assert callback.payload["to"] == "ada"
    assert callback.payload["completed"] == 3
    with pytest.raises(Conflict, match="finished"):
        await service.jobs.enqueue(job_type, queue=queue, batch_id=batch.id)
    with pytest.raises(BatchNotFound):
        await service.batches.get(uuid4())


async def test_a_batch_that_is_enqueued_twice_is_stored_once(service, queue, job_type):
    batch_id = uuid4()
    jobs = [NewJob(job_type=job_type, queue=queue)]
    first = await service.batches.enqueue(jobs, batch_id=batch_id)
    second = await service.batches.enqueue(jobs, batch_id=batch_id)
    assert [job.id for job in second.jobs] == [job.id for job in first.jobs]
    assert len(await service.jobs.list(batch_id=batch_id)) == 1


async def test_an_event_wakes_a_parked_job_or_is_stored_for_the_next(
    service, queue, job_type, worker_calls
):
    name = f"paid:{job_type}"
    await service.jobs.enqueue(job_type, queue=queue)
    (job,) = await worker_calls.claim()
    await worker_calls.report(job, "parked", delay_seconds=3600, event=name)
    assert await service.events.send(name, {"amount": 3}) == 1
    (job,) = await worker_calls.claim()
    assert (job.event, job.attempt) == ({"amount": 3}, 1)
    assert await service.events.send(name, "early") == 0
    await worker_calls.report(job, "parked", delay_seconds=3600, event=name)
    (job,) = await worker_calls.claim()
    assert job.event == "early"


# --- Queues, limits, tenants ---


async def test_a_queue_is_paused_drained_and_purged(service, queue, job_type, worker_calls):
    await service.jobs.enqueue_many([NewJob(job_type=job_type, queue=queue) for _ in range(3)])
    until = datetime.now(UTC) + timedelta(hours=1)
    paused = await service.queues.pause(queue, resume_at=until, reason="repairs")
    assert (paused.paused, paused.pause_reason, paused.jobs) == (True, "repairs", {"pending": 3})
    assert await worker_calls.claim() == []
    await service.queues.resume(queue)
    await worker_calls.claim_and_report(1)
    assert (await service.queues.drain(queue)).draining
    with pytest.raises(QueueDraining, match=queue):
        await service.jobs.enqueue(job_type, queue=queue)
    assert (await service.queues.purge(queue, preview=True)).matched == 2
    assert (await service.queues.purge(queue)).changed == 2
    (counts,) = [counts for counts in await service.queues.counts() if counts.queue == queue]
    assert (counts.pending, counts.completed, counts.cancelled) == (0, 1, 2)
    assert counts.finished_last_minute == 3
    assert not (await service.queues.resume(queue)).draining


async def test_a_queue_has_its_own_settings(service, queue, job_type):
    settings = await service.queues.set(queue, max_attempts=9, fair_share=True, events="none")
    assert (settings.max_attempts, settings.fair_share, settings.events) == (9, True, "none")
    job = await service.jobs.enqueue(job_type, queue=queue)
    assert (await service.jobs.get(job.id)).max_attempts == 9
    assert (await service.queues.set(queue, max_attempts=None)).max_attempts is None
    assert queue in {row.name for row in await service.queues.list()}
    with pytest.raises(InvalidArgument, match="max_attempts is 0"):
        await service.queues.set(queue, max_attempts=0)
    with pytest.raises(InvalidArgument, match="colour"):
        await service.queues.set(queue, colour="red")
    for change in (service.queues.pause, service.queues.resume, service.queues.drain):
        with pytest.raises(QueueNotFound, match="no-such-queue"):
            await change("no-such-queue")


async def test_a_limit_applies_to_jobs_that_were_enqueued_before_and_can_be_deleted(
    service, queue, job_type, worker_calls
):
    key = f"model:{job_type}"
    await service.jobs.enqueue_many(
        [NewJob(job_type=job_type, queue=queue, limit_keys=[key]) for _ in range(4)]
    )
    limit = await service.limits.set(key, max_running=1)
    assert (limit.max_running, limit.rate) == (1, None)
    (job,) = await worker_calls.claim(4)
    (row,) = [row for row in await service.limits.list() if row.key == key]
    assert (row.running, row.waiting) == (1, 3)
    await service.limits.pause(key)
    await worker_calls.report(job, "completed")
    assert await worker_calls.claim(4) == []
    await service.limits.resume(key)
    await worker_calls.claim_and_report(1)
    await service.limits.delete(key)
    await worker_calls.claim_and_report(2)
    with pytest.raises(LimitNotFound, match=key):
        await service.limits.delete(key)
    for invalid_rule in ({"max_running": 0}, {"rate": 5}, {"rate": 0, "period": 1}, {}):
        with pytest.raises(InvalidArgument):
            await service.limits.set(key, **invalid_rule)


async def test_tenant_weights_are_set(service, job_type):
    assert (await service.tenants.set(job_type, 3)).weight == 3
    assert {row.tenant: row.weight for row in await service.tenants.list()}[job_type] == 3
    with pytest.raises(InvalidArgument, match="weight"):
        await service.tenants.set(job_type, 0)


async def test_desired_workers_counts_ready_and_running_jobs(
    service, queue, job_type, worker_calls
):
    await service.jobs.enqueue_many([NewJob(job_type=job_type, queue=queue) for _ in range(25)])
    await worker_calls.claim(5)
    wanted = await service.queues.desired_workers(queue, jobs_per_worker=10, max_workers=2)
    assert (wanted.desired, wanted.running, wanted.ready) == (2, 5, 20)
    with pytest.raises(QueueNotFound):
        await service.queues.desired_workers("no-such-queue")


# --- Schedules ---


async def test_a_schedule_is_set_run_paused_and_deleted(service, queue, job_type):
    name = f"nightly.{job_type}"
    schedule = await service.schedules.set(
        name, job_type, {"full": True}, cron="30 3 * * *", timezone="Europe/Berlin", queue=queue
    )
    assert (schedule.timezone, schedule.job["payload"], schedule.paused) == (
        "Europe/Berlin",
        {"full": True},
        False,
    )
    assert schedule.next_at > datetime.now(UTC)
    run = await service.schedules.run(name)
    job = await service.jobs.get(run.id)
    assert (job.payload, job.metadata["schedule"]) == ({"full": True}, name)
    assert (await service.schedules.pause(name)).next_at is None
    assert (await service.schedules.resume(name)).next_at == schedule.next_at
    assert name in {row.name for row in await service.schedules.list()}
    assert await service.schedules.delete(name)
    assert not await service.schedules.delete(name)
    with pytest.raises(ScheduleNotFound, match=name):
        await service.schedules.run(name)


@pytest.mark.parametrize(
    ("schedule", "error"),
    [
        ({"cron": "61 * * * *"}, InvalidCron),
        ({"cron": "0 0 * * *", "timezone": "Mars/Base"}, InvalidCron),
        ({"every": 0.1}, InvalidArgument),
        ({}, InvalidArgument),
    ],
)
async def test_an_invalid_schedule_is_refused(service, job_type, schedule, error):
    with pytest.raises(error):
        await service.schedules.set(f"bad.{job_type}", job_type, **schedule)
    assert f"bad.{job_type}" not in {row.name for row in await service.schedules.list()}


# --- Reads and changes of jobs ---


async def test_failed_jobs_are_grouped_and_changed_by_filter(
    service, queue, job_type, worker_calls
):
    await service.jobs.enqueue_many(
        [NewJob(job_type=job_type, queue=queue, max_attempts=1, tags=["t"]) for _ in range(5)]
    )
    for n, job in enumerate(await worker_calls.claim(5)):
        await worker_calls.report(job, "failed", error=f"no room on disk {n}" if n else "other")
    common, rare = await service.jobs.failure_reasons(queue=queue)
    assert (common.count, rare.count, common.job_types) == (4, 1, (job_type,))
    assert {job.status for job in await service.jobs.list(reason=common.reason, queue=queue)} == {
        "failed"
    }
    preview = await service.jobs.change("retry", preview=True, queue=queue, reason=common.reason)
    assert (preview.matched, preview.changed) == (4, 0)
    assert (await service.jobs.change("retry", queue=queue, reason=common.reason)).changed == 4
    assert (await service.jobs.change("cancel", queue=queue, tag="t")).changed == 4
    assert (await service.jobs.change("discard", queue=queue, limit=2)).more
    assert (await service.jobs.change("discard", queue=queue)).changed == 3
    assert await service.jobs.list(queue=queue) == []
    with pytest.raises(InvalidArgument, match="selects every job"):
        await service.jobs.change("discard")
    with pytest.raises(InvalidArgument, match="colour"):
        await service.jobs.list(colour="red")


async def test_history_and_position_of_a_job_are_returned(service, queue, job_type, worker_calls):
    first = await service.jobs.enqueue(job_type, queue=queue)
    last = await service.jobs.enqueue(job_type, queue=queue)
    assert (await service.jobs.position(last.id)).position == 2
    (job,) = await worker_calls.claim()
    lines = [{"level": "info", "message": "half way"}]
    await service._backend.call(_rpc.log_job(job.id, job.lease_id, lines))
    await worker_calls.report(job, "failed", error="no", detail="Traceback", delay_seconds=0)
    await service.maintain(force=True)
    await worker_calls.claim_and_report(1)
    history = await service.jobs.history(first.id)
    assert [step.action for step in history.timeline] == [
        "enqueue",
        "claim",
        "back_off",
        "promote",
        "claim",
        "complete",
    ]
    assert [(attempt.error, attempt.detail) for attempt in history.attempts] == [
        ("no", "Traceback")
    ]
    assert [line.message for line in history.log] == ["half way"]
    assert (await service.jobs.position(first.id)).position is None
    for read in (service.jobs.history, service.jobs.position):
        with pytest.raises(JobNotFound):
            await read(uuid4())


async def test_the_doctor_returns_findings_and_maintenance_its_counts(service):
    findings = await service.doctor()
    assert len({finding.check for finding in findings}) >= 12
    assert {finding.verdict for finding in findings} <= {"ok", "warn", "bad"}
    assert all(finding.remedy for finding in findings if finding.verdict != "ok")
    assert "swept" in (await service.maintain(force=True)).model_fields_set


async def test_settings_are_changed_and_reset(service):
    before = await service.settings.get()
    try:
        assert (await service.settings.set(max_attempts=4)).max_attempts == 4
        with pytest.raises(InvalidArgument, match="max_attempts is 0"):
            await service.settings.set(max_attempts=0)
    finally:
        assert await service.settings.set(max_attempts=before.max_attempts) == before


async def test_an_unknown_queue_is_refused_if_the_project_requires_it(service, queue, job_type):
    try:
        await service.settings.set(unknown_queue="refuse")
        with pytest.raises(QueueNotFound, match=queue):
            await service.jobs.enqueue(job_type, queue=queue)
    finally:
        await service.settings.set(unknown_queue=None)
    assert (await service.jobs.enqueue(job_type, queue=queue)).outcome == "created"


def test_the_sync_client_has_methods_for_every_noun(sync_service, queue, job_type):
    with sync_service as pq:
        batch = pq.batches.enqueue([NewJob(job_type=job_type, queue=queue)])
        assert pq.batches.get(batch.id).open == 1
        assert pq.queues.pause(queue).paused
        assert pq.limits.set(job_type, rate=5, period=60).rate == 5
        pq.limits.delete(job_type)
        assert pq.schedules.set(job_type, job_type, every=3600, queue=queue).every_seconds == 3600
        assert pq.schedules.delete(job_type)
        assert pq.events.send(job_type) == 0
        assert pq.tenants.set(job_type, 2).weight == 2
        assert pq.settings.get().max_attempts >= 1
        assert pq.jobs.change("cancel", queue=queue).changed == 1
        assert pq.doctor()
