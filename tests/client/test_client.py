"""The client with the real API: its methods, async and sync, and the types of its errors."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import jwt
import pytest
from supabase import ClientOptions, create_client

import picture_queue
from picture_queue import AsyncPictureQueue, PictureQueue, _rpc, errors
from picture_queue.records import (
    JobStatus,
    Version,
)


async def claim(service, queue):
    request = _rpc.Claim("test", (queue,), ("resize",), 10, 30.0, uuid4())
    return await service._backend.call(_rpc.claim_jobs(request))


async def report(service, job, outcome, **fields):
    item = {"job_id": str(job.id), "lease_id": str(job.lease_id), "outcome": outcome, **fields}
    return await service._backend.call(_rpc.report_jobs([item]))


async def test_a_job_is_enqueued_read_and_listed(service, queue):
    user_id = uuid4()
    enqueued = await service.jobs.enqueue(
        "resize", {"path": "a.png"}, queue=queue, priority=5, user_id=user_id, max_attempts=2
    )
    assert enqueued.outcome == "created"
    job = await service.jobs.get(enqueued.id)
    assert (job.payload, job.priority, job.user_id) == ({"path": "a.png"}, 5, user_id)
    assert (job.status, job.max_attempts, job.finished) == (JobStatus.PENDING, 2, False)
    listed = await service.jobs.list(queue=queue, status="pending", job_type="resize", limit=1)
    assert [item.id for item in listed] == [job.id]
    assert await service.jobs.list(queue=queue, before_seq=job.seq) == []


async def test_an_idempotency_key_returns_the_existing_job(service, queue):
    first = await service.jobs.enqueue("resize", queue=queue, idempotency_key=queue)
    second = await service.jobs.enqueue("resize", queue=queue, idempotency_key=queue)
    assert (second.id, second.outcome) == (first.id, "existing")


async def test_many_jobs_are_enqueued_in_one_call(service, queue):
    jobs = [{"job_type": "resize", "queue": queue, "payload": {"n": n}} for n in range(3)]
    answer = await service.jobs.enqueue_many(jobs)
    assert [item.outcome for item in answer] == ["created"] * 3


async def test_a_naive_time_is_local_and_a_scheduled_job_waits(service, queue):
    due = datetime.now() + timedelta(hours=1)
    enqueued = await service.jobs.enqueue("resize", queue=queue, scheduled_for=due)
    job = await service.jobs.get(enqueued.id)
    assert job.hold == "scheduled"
    assert abs(job.scheduled_for - due.astimezone(UTC)) < timedelta(seconds=1)


async def test_explain_returns_why_a_job_does_not_run(service, queue):
    due = datetime.now(UTC) + timedelta(hours=1)
    first = await service.jobs.enqueue("resize", queue=queue, scheduled_for=due)
    second = await service.jobs.enqueue("no-handler", queue=queue)
    explanation = await service.jobs.explain(first.id)
    assert (explanation.job_id, explanation.reason) == (first.id, "scheduled")
    assert (explanation.until, explanation.waits) == (due, True)
    assert [reason.reason for reason in explanation.reasons] == ["scheduled", "no_worker"]
    both = await service.jobs.explain(job for job in (second.id, uuid4()))
    assert [reason.reason for reason in both] == ["no_worker", "unknown"]
    assert (both[0].queue, both[0].job_type) == (queue, "no-handler")
    assert (both[1].status, both[1].reasons) == (None, ())


async def test_a_failed_job_is_retried_on_request(service, queue):
    enqueued = await service.jobs.enqueue("resize", queue=queue, max_attempts=1)
    (job,) = await claim(service, queue)
    await report(service, job, "failed", error="boom")
    with pytest.raises(errors.JobFailed, match="boom") as failed:
        await service.jobs.result(enqueued.id, timeout=5)
    assert failed.value.job.status is JobStatus.FAILED
    retried = await service.jobs.retry(enqueued.id)
    assert (retried.status, retried.max_attempts) == (JobStatus.PENDING, 2)


async def test_the_result_of_a_cancelled_job_is_an_error(service, queue):
    enqueued = await service.jobs.enqueue("resize", queue=queue)
    request = await service.jobs.cancel(enqueued.id)
    assert request.status is JobStatus.CANCELLED
    with pytest.raises(errors.JobCancelled):
        await service.jobs.result(enqueued.id, timeout=5)


async def test_waiting_for_a_result_times_out(service, queue):
    enqueued = await service.jobs.enqueue("resize", queue=queue)
    with pytest.raises(errors.WaitTimeout, match="The job continues"):
        await service.jobs.result(enqueued.id, timeout=0.2)
    assert (await service.jobs.get(enqueued.id)).status is JobStatus.PENDING


async def test_generations_are_started_listed_and_cancelled(ada):
    started = await ada.pq.generations.start("a cat", input={"seed": 7})
    generation = await ada.pq.generations.get(started.id)
    assert (generation.prompt, generation.user_id) == ("a cat", ada.id)
    assert [item.id for item in await ada.pq.generations.list(status="pending")] == [started.id]
    await ada.pq.generations.cancel(started.id)
    last = [event async for event in ada.pq.generations.watch(started.id, timeout=5)][-1]
    assert (last.status, last.generation_id) == (JobStatus.CANCELLED, started.id)


async def test_a_service_key_starts_a_generation_for_a_user(service, ada):
    started = await service.generations.start("a cat", user_id=ada.id, priority=1)
    assert (await ada.pq.generations.get(started.id)).id == started.id


async def test_models_health_and_version_can_be_read(service):
    models = await service.models.list()
    assert [model.model_id for model in models if model.default] == [
        "black-forest-labs/flux-schnell"
    ]
    health = await service.health()
    assert "default" in [row.queue for row in health.queues]
    assert (await service.version()).contract == _rpc.CONTRACT


async def test_health_lists_the_job_types_without_a_worker(service, queue):
    await service.jobs.enqueue("unhandled", queue=queue)
    without_worker = (await service.health()).job_types_without_worker
    assert [(item.job_type, item.pending) for item in without_worker if item.queue == queue] == [
        ("unhandled", 1)
    ]


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        (lambda pq: pq.jobs.enqueue("no spaces"), errors.InvalidArgument, "no spaces"),
        (lambda pq: pq.jobs.get("nonsense"), errors.InvalidArgument, "job_id is 'nonsense'"),
        (lambda pq: pq.jobs.get(uuid4()), errors.JobNotFound, "No such job"),
        (lambda pq: pq.jobs.cancel(uuid4()), errors.JobNotFound, "No such job"),
        (lambda pq: pq.jobs.retry(uuid4()), errors.JobNotFound, "No such job"),
        (lambda pq: pq.generations.get(uuid4()), errors.GenerationNotFound, "No such generation"),
        (
            lambda pq: pq.generations.cancel(uuid4()),
            errors.GenerationNotFound,
            "No such generation",
        ),
        (lambda pq: pq.generations.start("x", "no/model"), errors.UnknownModel, "no/model"),
        (lambda pq: pq.generations.start(" "), errors.InvalidInput, "prompt is empty"),
        (
            lambda pq: pq.generations.start("x", input={"num_outputs": 9}),
            errors.InvalidInput,
            "num_outputs is 9 and is above 4",
        ),
        (
            lambda pq: pq.jobs.enqueue("a", {"x": "y" * 70_000}),
            errors.TooLarge,
            "the limit is 65536",
        ),
    ],
)
async def test_a_refused_call_raises_a_typed_error_of_one_line(service, call, error, expected):
    with pytest.raises(error) as raised:
        await call(service)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_conflicts_stale_leases_and_finished_jobs_raise_typed_errors(service, queue):
    enqueued = await service.jobs.enqueue("resize", queue=queue)
    with pytest.raises(errors.Conflict):
        await service.jobs.enqueue("other", job_id=enqueued.id)
    (job,) = await claim(service, queue)
    with pytest.raises(errors.StaleLease):
        await service._backend.call(_rpc.report_progress(job.id, uuid4(), 5))
    with pytest.raises(errors.JobRunning):
        await service.jobs.retry(job.id)
    await report(service, job, "completed")
    with pytest.raises(errors.JobFinished):
        await service.jobs.cancel(job.id)


async def test_calls_that_need_a_service_key_are_refused_for_a_user(ada):
    with pytest.raises(errors.NotAllowed):
        await ada.pq.generations.start("a cat", priority=3)
    with pytest.raises(errors.NotAllowed):
        await ada.pq.jobs.enqueue("resize")


async def test_a_token_without_a_user_id_cannot_start_a_generation(stack):
    claims = {"role": "authenticated", "exp": int(time.time()) + 60}
    token = jwt.encode(claims, stack.jwt_secret, "HS256")
    async with AsyncPictureQueue(stack.api_url, stack.anon_key, access_token=token) as pq:
        with pytest.raises(errors.NotAuthenticated):
            await pq.generations.start("a cat")


async def test_wrong_keys_and_addresses_raise_typed_errors(stack):
    for url, key, error in (
        (stack.api_url, "sb_secret_wrong", errors.AuthenticationFailed),
        (stack.api_url, "wrong", errors.AuthenticationFailed),
        (stack.replicate_url, "any", errors.ConnectionFailed),
        ("http://127.0.0.1:9", "any", errors.ConnectionFailed),
    ):
        async with AsyncPictureQueue(url, key) as pq:
            with pytest.raises(error) as refused:
                await pq.jobs.list()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key_name", ["secret_key", "service_role_key"])
async def test_both_kinds_of_service_keys_work(stack, key_name):
    async with AsyncPictureQueue(stack.api_url, getattr(stack, key_name)) as pq:
        await pq.jobs.list(limit=1)


@pytest.mark.parametrize("key_name", ["publishable_key", "anon_key"])
async def test_calls_with_an_anonymous_key_are_refused(stack, key_name):
    async with AsyncPictureQueue(stack.api_url, getattr(stack, key_name)) as pq:
        for call in (pq.jobs.list, pq.models.list, pq.health, pq.version):
            with pytest.raises((errors.NotAllowed, errors.NotAuthenticated)):
                await call()


async def test_a_missing_or_incompatible_schema_raises_a_typed_error(service, monkeypatch):
    async def call_schema(version):
        async def fake_call(rpc, deadline):
            return version

        async with AsyncPictureQueue("http://unused", "key") as pq:
            monkeypatch.setattr(pq._backend.api, "call", fake_call)
            await pq.jobs.list()

    with pytest.raises(errors.DatabaseTooOld, match=r"db push"):
        await call_schema(Version(version="0.0.1", contract=0, oldest_client_contract=0))
    with pytest.raises(errors.ClientTooOld, match=r"pip install"):
        await call_schema(Version(version="9.0.0", contract=9, oldest_client_contract=8))
    # Here the real API answers that the function does not exist.
    missing = _rpc.Rpc("missing", {}, dict)
    monkeypatch.setattr(_rpc.project, "picture_queue_version", lambda: missing)
    with pytest.raises(errors.NotInstalled):
        await service.jobs.list()


async def test_a_call_whose_response_was_lost_is_retried_and_writes_once(service, queue):
    client = await service._backend._api().client()
    sent = 0

    async def lose_first(response: httpx.Response) -> None:
        nonlocal sent
        if response.request.url.path.endswith("/enqueue_job"):
            sent += 1
            if sent == 1:
                raise httpx.ReadError("cut after the database committed")

    client.options.httpx_client.event_hooks["response"].append(lose_first)
    await service.jobs.enqueue("resize", queue=queue)
    assert sent == 2
    assert len(await service.jobs.list(queue=queue)) == 1


async def test_a_supabase_client_of_the_caller_is_used_and_not_closed(ada):
    async with AsyncPictureQueue(client=ada.supabase) as pq:
        started = await pq.generations.start("a cat")
        assert (await pq.generations.get(started.id)).user_id == ada.id
    await ada.supabase.rpc("list_models").execute()


async def test_the_sync_client_supports_the_same_operations(stack, queue):
    def use() -> None:
        with PictureQueue(stack.api_url, stack.service_role_key) as pq:
            job = pq.jobs.enqueue("resize", {"a": 1}, queue=queue)
            events = iter(pq.jobs.watch(job.id, timeout=20))
            assert next(events).status is JobStatus.PENDING
            pq.jobs.cancel(job.id)
            assert [event.status for event in events][-1] is JobStatus.CANCELLED
            with pytest.raises(errors.JobCancelled):
                pq.jobs.result(job.id)
            started = pq.generations.start("a cat")
            pq.generations.cancel(started.id)
            assert [event.status for event in pq.generations.watch(started.id)][-1].finished
            assert pq.health().queues
        with httpx.Client(timeout=30) as http:
            options = ClientOptions(httpx_client=http)
            supabase = create_client(stack.api_url, stack.service_role_key, options)
            with PictureQueue(client=supabase) as pq:
                assert pq.models.list()

    await asyncio.to_thread(use)


async def test_settings_come_from_the_environment(stack, monkeypatch):
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.SettingsError, match="SUPABASE_URL is not set"):
        AsyncPictureQueue.from_env()
    monkeypatch.setenv("SUPABASE_URL", stack.api_url)
    with pytest.raises(errors.SettingsError, match="No Supabase key"):
        AsyncPictureQueue.from_env()
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", stack.service_role_key)
    async with AsyncPictureQueue.from_env() as pq:
        assert await pq.models.list()
    with pytest.raises(errors.SettingsError, match="not an http"):
        AsyncPictureQueue("ftp://example.com", "key")
    with pytest.raises(errors.SettingsError, match="without a user name") as refused:
        AsyncPictureQueue("https://user:s3cret@example.com", "key")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("name", ["url", "key", "access_token", "database_url"])
@pytest.mark.parametrize("client", [PictureQueue, AsyncPictureQueue])
def test_an_empty_argument_is_not_replaced_by_the_environment(client, name, monkeypatch):
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "key")
    with pytest.raises(errors.SettingsError, match=f"`{name}` is empty"):
        client(**{name: ""})


def test_all_exported_names_exist_and_are_sorted():
    assert picture_queue.__all__ == sorted(picture_queue.__all__)
    for name in picture_queue.__all__:
        assert getattr(picture_queue, name)
    with pytest.raises(AttributeError):
        _ = picture_queue.unknown_name


@pytest.mark.parametrize("timeout", [None, "5", -1, float("nan")])
@pytest.mark.parametrize(
    "project",
    [("http://unused", "key", None), (None, None, "postgresql://unused")],
    ids=["http", "direct"],
)
def test_a_timeout_that_is_not_a_number_of_seconds_is_refused(project, timeout):
    with pytest.raises(errors.SettingsError, match="`timeout` is "):
        PictureQueue(*project[:2], database_url=project[2], timeout=timeout)
