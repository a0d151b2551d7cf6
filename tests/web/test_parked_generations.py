"""Generations whose jobs are parked until a webhook or a poll, with a worker and a server."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn

from picture_queue import AsyncPictureQueue, JobStatus, Worker, WorkerSettings
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.settings import ReplicateSettings
from picture_queue.web import create_app

from ..signals import watch

PARKING = HandlerSettings(
    first_poll_interval=0.05,
    max_poll_interval=0.2,
    park_after=0.3,
    park_after_webhook=0.1,
    parked_poll_interval=60,
)


@pytest.fixture
async def webhook_url(stack: Any, service: AsyncPictureQueue) -> AsyncIterator[str]:
    """The URL of the app, which serves the webhooks of the simulator."""
    app = create_app(service, ReplicateSettings(stack.replicate_token, stack.replicate_url))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/webhooks/replicate"
        server.should_exit = True
        await asyncio.wait_for(serving, 10)


@pytest.fixture
def parking_worker(stack: Any, service: AsyncPictureQueue) -> Callable[..., Worker]:
    """Return a function that creates a worker with one slot, which parks generations early."""

    def create(webhook_url: str | None = None, settings: HandlerSettings = PARKING) -> Worker:
        replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url, webhook_url)
        worker_settings = WorkerSettings(shutdown_grace=0, concurrency=1, poll_interval=0.1)
        worker = builtin_worker(service, worker_settings, replicate, settings)
        watch(worker)
        return worker

    return create


@pytest.fixture
async def simulator(stack: Any, db: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for the simulator's paths below ``/_simulator``, with a reset simulator."""
    # Cancel generations of other tests, whose predictions would take the faults of this test.
    pending_jobs = json.dumps({"job_type": "generate-image", "status": "pending"})
    await db.execute("select change_jobs('cancel', $1)", pending_jobs)
    # End predictions of other tests. A worker polls less often if there are more predictions.
    await db.execute(
        "update picture_queue.prediction set state = 'lost' where state in ('creating', 'created')"
    )
    url = httpx.URL(stack.replicate_url).copy_with(raw_path=b"/_simulator/")
    headers = {"apikey": stack.secret_key}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10) as http:
        (await http.post("reset")).raise_for_status()
        yield http


async def slow_down(simulator: httpx.AsyncClient, seconds: float) -> None:
    """Let the next prediction run longer by some seconds."""
    fault = {"kind": "slow", "seconds": seconds}
    (await simulator.post("faults", json=fault)).raise_for_status()


async def count_predictions(simulator: httpx.AsyncClient) -> int:
    return len((await simulator.get("predictions")).json())


async def test_a_webhook_wakes_a_parked_generation(
    service, simulator, parking_worker, webhook_url, db
):
    await slow_down(simulator, 1.5)
    started = await service.generations.start("a boat")
    # The job parks as soon as the prediction is created. The next poll is in a minute, so only the
    # webhook can wake the job in time.
    async with parking_worker(webhook_url, replace(PARKING, park_after_webhook=0)):
        result = await service.jobs.result(started.job_id, timeout=30)
    assert len(result["images"]) == 1
    parked_at = await db.fetchval("select parked_at from job_queue where id = $1", started.job_id)
    assert parked_at is not None
    assert (await service.jobs.get(started.job_id)).attempt == 1
    assert await count_predictions(simulator) == 1


async def test_a_parked_generation_uses_no_slot(
    service, simulator, parking_worker, webhook_url, wait_for_job
):
    await slow_down(simulator, 20)
    slow = await service.generations.start("a boat", priority=1)
    fast = await service.generations.start("a tree")
    async with parking_worker(webhook_url):  # it has one slot
        await service.jobs.result(fast.job_id, timeout=30)
        parked = await service.jobs.get(slow.job_id)
        assert (parked.status, parked.hold) == (JobStatus.PROCESSING, "parked")
        await service.generations.cancel(slow.id)
        await wait_for_job(slow.job_id, lambda event: event.status == JobStatus.CANCELLED)


async def test_a_cancel_reaches_the_prediction_of_a_parked_generation(
    service, simulator, parking_worker, webhook_url, wait_for_job
):
    await slow_down(simulator, 60)
    started = await service.generations.start("a boat")
    async with parking_worker(webhook_url):
        await wait_for_job(started.job_id, lambda event: event.hold == "parked")
        await service.generations.cancel(started.id)
        await wait_for_job(started.job_id, lambda event: event.status == JobStatus.CANCELLED)
    (prediction,) = (await simulator.get("predictions")).json()
    assert prediction["status"] in ("canceled", "aborted")


async def test_a_lost_webhook_is_replaced_by_a_poll(
    service, simulator, parking_worker, webhook_url
):
    (await simulator.post("faults", json={"kind": "lose_webhooks"})).raise_for_status()
    await slow_down(simulator, 1)
    settings = HandlerSettings(
        first_poll_interval=0.05, park_after_webhook=0.1, parked_poll_interval=0.5
    )
    started = await service.generations.start("a boat")
    async with parking_worker(webhook_url, settings):
        await service.jobs.result(started.job_id, timeout=30)
    assert await count_predictions(simulator) == 1


async def test_a_picture_is_stored_once_if_webhooks_arrive_twice(
    service, simulator, parking_worker, webhook_url
):
    (await simulator.post("faults", json={"kind": "repeat_webhooks"})).raise_for_status()
    await slow_down(simulator, 1)
    started = await service.generations.start("a boat")
    async with parking_worker(webhook_url):
        await service.jobs.result(started.job_id, timeout=30)
    history = await service.jobs.history(started.job_id)
    assert [entry.action for entry in history.timeline].count("wake") == 1
    assert len((await service.generations.get(started.id)).images) == 1


async def test_without_webhooks_a_parked_generation_is_polled(
    service, simulator, parking_worker, wait_for_job
):
    await slow_down(simulator, 1.5)
    started = await service.generations.start("a boat")
    async with parking_worker():
        await wait_for_job(started.job_id, lambda event: event.hold == "parked")
        await service.jobs.result(started.job_id, timeout=30)
    assert (await service.jobs.get(started.job_id)).attempt == 1
    assert await count_predictions(simulator) == 1


async def test_the_progress_of_a_woken_generation_does_not_decrease(
    service, simulator, parking_worker, db
):
    await slow_down(simulator, 3)
    started = await service.generations.start("a boat", "black-forest-labs/flux-dev")
    percentages: list[int] = []
    async with parking_worker():
        async for event in service.generations.watch(started.id, timeout=30):
            percentages.append(event.progress)
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
