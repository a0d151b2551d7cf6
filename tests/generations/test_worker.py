"""The built-in handler: from a prompt to a stored image, over the API of the project."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from picture_queue import AsyncPictureQueue, JobCancelled, JobStatus, Worker, WorkerSettings
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.providers.replicate.download import DownloadRules
from picture_queue.providers.replicate.http import RetryPolicy
from picture_queue.settings import ReplicateSettings

from ..faults.proxy import Proxy
from ..signals import watch

QUICK = HandlerSettings(first_poll_interval=0.05, max_poll_interval=0.1)


@pytest.fixture
def new_builtin_worker(stack, service) -> Callable[..., Worker]:
    def make(**settings: Any) -> Worker:
        replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
        worker_settings = WorkerSettings(shutdown_grace=0, **settings)
        worker = builtin_worker(service, worker_settings, replicate, QUICK)
        watch(worker)
        return worker

    return make


async def test_a_prompt_leads_to_a_stored_image(service: AsyncPictureQueue, new_builtin_worker):
    started = await service.generations.start("a lighthouse", input={"num_outputs": 2})
    async with new_builtin_worker():
        result = await service.jobs.result(started.job_id, timeout=30)
    generation = await service.generations.get(started.id)
    assert generation.status is JobStatus.COMPLETED
    assert [image.n for image in generation.images] == [1, 2]
    assert [image["path"] for image in result["images"]] == [i.path for i in generation.images]
    for image in generation.images:
        assert len(await service.generations.download(image)) == image.bytes


async def test_a_short_outage_of_storage_does_not_use_up_an_attempt(
    service, new_builtin_worker, faults
):
    await faults(answer_503=2, path="/storage/v1/object/pictures")
    started = await service.generations.start("a lighthouse")
    async with new_builtin_worker():
        await service.jobs.result(started.job_id, timeout=30)
    assert (await service.jobs.get(started.job_id)).attempt == 1


async def test_a_throttled_account_pauses_all_generations(stack, service, new_builtin_worker, db):
    key = {"apikey": stack.secret_key}
    async with httpx.AsyncClient(base_url=stack.replicate_url, headers=key, timeout=10) as http:
        fault = {"kind": "rate_limit", "count": 1, "seconds": 60}
        origin = httpx.URL(stack.replicate_url).copy_with(raw_path=b"/_simulator/faults")
        (await http.post(origin, json=fault)).raise_for_status()
    first, *others = [await service.generations.start(f"lighthouse {n}") for n in range(3)]
    async with new_builtin_worker(concurrency=1, poll_interval=0.05) as worker:
        assert await worker._signals.outcome.next() == (first.job_id, "snoozed")
        await worker._signals.idle.next()
        for generation in others:
            waiting = await service.jobs.get(generation.job_id)
            assert (waiting.status, waiting.attempt) == (JobStatus.PENDING, 0)
        await db.execute("select resume_key('provider:replicate')")
        for generation in others:
            await service.jobs.result(generation.job_id, timeout=30)
    assert (await service.jobs.get(first.job_id)).attempt == 0
    await service.generations.cancel(first.id)


async def test_an_outage_of_replicate_does_not_use_up_attempts(stack, service, db, monkeypatch):
    policy = RetryPolicy(max_attempts=2, first_wait=0.01)
    monkeypatch.setattr("picture_queue.providers.replicate.http.RetryPolicy", lambda: policy)
    address = httpx.URL(stack.replicate_url)
    # The worker downloads images from the simulator directly, not through the proxy.
    rules = DownloadRules(origins=(f"http://{address.host}:{address.port}",))
    monkeypatch.setattr("picture_queue.providers.replicate.client.DownloadRules", lambda: rules)
    with Proxy(address.host, address.port, "http") as proxy:
        proxy.refuse()
        replicate = ReplicateSettings(stack.replicate_token, f"http://127.0.0.1:{proxy.port}/v1")
        quick = replace(QUICK, default_pause=0.1)
        settings = WorkerSettings(shutdown_grace=0, poll_interval=0.05)
        worker = builtin_worker(service, settings, replicate, quick)
        watch(worker)
        started = await service.generations.start("a lighthouse")
        async with worker:
            for _ in range(5):  # These are more outages than a job has attempts.
                assert await worker._signals.outcome.next() == (started.job_id, "snoozed")
            proxy.heal()
            result = await service.jobs.result(started.job_id, timeout=30)
    assert len(result["images"]) == 1
    assert (await service.jobs.get(started.job_id)).attempt == 1


async def test_an_outage_of_storage_does_not_use_up_attempts(stack, service, faults, monkeypatch):
    monkeypatch.setattr("picture_queue._transport.base._backoff", lambda state: 0.0)
    await faults(answer_503=1000, path="/storage/v1/object/pictures")
    replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
    settings = WorkerSettings(shutdown_grace=0, poll_interval=0.05)
    worker = builtin_worker(service, settings, replicate, replace(QUICK, default_pause=0.1))
    watch(worker)
    started = await service.generations.start("a lighthouse")
    async with worker:
        for _ in range(5):  # These are more outages than a job has attempts.
            assert await worker._signals.outcome.next() == (started.job_id, "snoozed")
        await faults(answer_503=0, path="/storage/v1/object/pictures")
        result = await service.jobs.result(started.job_id, timeout=30)
    assert len(result["images"]) == 1
    assert (await service.jobs.get(started.job_id)).attempt == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://no-such-host.invalid/v1"])
async def test_a_wrong_address_of_replicate_is_shown_in_log_and_job(
    service, caplog, monkeypatch, db, url
):
    policy = RetryPolicy(max_attempts=1)
    monkeypatch.setattr("picture_queue.providers.replicate.http.RetryPolicy", lambda: policy)
    settings = WorkerSettings(shutdown_grace=0, poll_interval=0.05, concurrency=1)
    worker = builtin_worker(service, settings, ReplicateSettings("r8_test", url), QUICK)
    watch(worker)
    first, second = [await service.generations.start(f"lighthouse {n}") for n in range(2)]
    expected = f"NotReached: Replicate cannot be reached at {url}: ConnectError: "
    async with worker:
        assert await worker._signals.outcome.next() == (first.job_id, "snoozed")
        await worker._signals.reported.next()
        snoozed, paused = await service.jobs.explain([first.job_id, second.job_id])
        assert (snoozed.reason, paused.reason) == ("scheduled", "key_paused")
        assert snoozed.detail.startswith(f"A handler postponed it: {expected}")
        assert snoozed.error.startswith(expected)
        assert paused.detail.startswith(f"Limit key provider:replicate is paused: {expected}")
        assert paused.pause_reason.startswith(expected)
        assert "REPLICATE_BASE_URL" in paused.detail
        message = (await service.jobs.get(first.job_id)).message
        assert message == "The image service is not available at the moment."
    (warning,) = [line for line in caplog.records if expected in line.getMessage()]
    assert warning.levelname == "WARNING"
    for started in (first, second):
        await service.generations.cancel(started.id)
    await db.execute("select resume_key('provider:replicate')")


async def test_a_cancel_of_the_job_stops_the_prediction(
    stack, service, new_builtin_worker, wait_for_job, db
):
    # The simulator takes a third of a second for an image, so the cancel comes first.
    started = await service.generations.start("a lighthouse")
    async with new_builtin_worker() as worker:
        await worker._signals.listening.next()
        await wait_for_job(started.job_id, lambda event: event.message == "waiting for the model")
        await service.generations.cancel(started.id)
        with pytest.raises(JobCancelled):
            await service.jobs.result(started.job_id, timeout=30)
    row = await db.fetchrow(
        "select state, prediction_id from picture_queue.prediction where generation_id = $1",
        started.id,
    )
    assert row["state"] in ("canceled", "aborted")  # aborted: it had not started


async def test_without_a_token_generations_stay_pending_with_a_log_message(service, queue, caplog):
    worker = builtin_worker(service, WorkerSettings(queues=("default", queue)), None)
    watch(worker)
    assert "REPLICATE_API_TOKEN is not set: generate-image, " in caplog.text
    assert worker.job_types == ("delete-pictures",)
    started = await service.generations.start("a lighthouse")
    async with worker:
        await worker._signals.idle.next()
        (explained,) = await service.jobs.explain([started.job_id])
        # Workers of other tests count for a minute after their end.
        assert explained.reason in ("no_worker", "waiting_for_worker")
    assert (await service.jobs.get(started.job_id)).status is JobStatus.PENDING
    await service.generations.cancel(started.id)
