"""Chains and batches of generations, from the clients to the pictures."""

import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from picture_queue import PictureQueue, Worker, WorkerSettings, errors
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.options import GenerationStep
from picture_queue.settings import ReplicateSettings

SETTINGS = HandlerSettings(first_poll_interval=0.05, recheck_delay=0.1)
SMALL = {"megapixels": "0.25"}
STEPS = [GenerationStep(kind="upscale"), GenerationStep(kind="background-removal")]


@pytest.fixture
def picture_worker(stack: Any, service: Any) -> Callable[[], Worker]:
    def create() -> Worker:
        replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
        settings = WorkerSettings(shutdown_grace=0, poll_interval=0.1)
        return builtin_worker(service, settings, replicate, SETTINGS)

    return create


async def predictions(stack: Any) -> list[dict[str, Any]]:
    url = httpx.URL(stack.replicate_url).copy_with(raw_path=b"/_simulator/predictions")
    async with httpx.AsyncClient(headers={"apikey": stack.secret_key}, timeout=10) as http:
        listed: list[dict[str, Any]] = (await http.get(url)).json()
        return listed


async def test_a_chain_of_three_kinds_ends_with_the_picture_of_the_last(ada, picture_worker, stack):
    chain = await ada.pq.generations.start("a boat", input=SMALL, then=STEPS)
    assert chain.batch_id is not None
    assert len(chain.steps) == 2
    async with picture_worker():
        states = [
            state async for state in ada.pq.generations.watch_batch(chain.batch_id, timeout=60)
        ]
    assert [state.progress for state in states] == sorted(state.progress for state in states)
    last = states[-1]
    assert (last.status, last.progress, last.completed) == ("completed", 100, 3)
    assert [entry.kind for entry in last.generations] == [
        "text-to-image", "upscale", "background-removal",
    ]  # fmt: skip
    before = await ada.pq.generations.get(chain.id)
    upscaled = await ada.pq.generations.get(chain.steps[0].id)
    assert upscaled.input["image"] == f"generation:{chain.id}"
    assert (upscaled.batch_id, upscaled.batch_step) == (chain.batch_id, 1)
    without_background = await ada.pq.generations.get(chain.steps[1].id)
    for generation in (before, upscaled, without_background):
        assert len(generation.images) == 1
    # The provider got signed URLs of the pictures of the steps before.
    sent = [prediction["input"].get("image") for prediction in await predictions(stack)]
    for source in (before, upscaled):
        (url,) = [url for url in sent if url and source.images[0].path in url]
        async with httpx.AsyncClient(timeout=10) as http:
            picture = await http.get(url)
        assert picture.content == await ada.pq.generations.download(source.images[0])


async def test_all_generations_of_a_batch_are_followed_together(ada, picture_worker):
    requests = [{"prompt": "a boat", "input": {**SMALL, "seed": n}} for n in range(5)]
    started = await ada.pq.generations.start_many(requests)
    assert [entry.status for entry in started.generations] == ["pending"] * 5
    first = await ada.pq.generations.get_batch(started.id)
    assert (first.status, first.total, first.finished) == ("pending", 5, False)
    async with picture_worker():
        async for state in ada.pq.generations.watch_batch(started.id, timeout=60):
            last = state
    assert (last.status, last.completed) == ("completed", 5)
    assert [entry.id for entry in last.generations] == [entry.id for entry in started.generations]
    assert float(last.cost_usd or 0) == pytest.approx(0.015)


async def test_a_batch_of_a_service_is_followed_by_polling(service, picture_worker):
    started = await service.generations.start_many([{"prompt": "a boat", "input": SMALL}])
    async with picture_worker():
        states = [s async for s in service.generations.watch_batch(started.id, timeout=60)]
    assert states[-1].status == "completed"


async def test_cancelling_a_batch_ends_the_wait(ada):
    requests = [{"prompt": "a boat", "then": STEPS}] * 2
    started = await ada.pq.generations.start_many(requests)
    states = ada.pq.generations.watch_batch(started.id, timeout=30)
    assert (await anext(states)).status == "pending"
    counts = await ada.pq.generations.cancel_batch(started.id)
    assert (counts.total, counts.cancelled, counts.cancel_requested) == (6, 6, 0)
    assert [state.status async for state in states][-1] == "cancelled"


async def test_a_wait_for_a_batch_ends_at_its_timeout_with_the_reason(ada):
    started = await ada.pq.generations.start_many([{"prompt": "a boat"}])
    with pytest.raises(errors.WaitTimeout, match=r"did not end within 0\.3 s") as timeout:
        async for _ in ada.pq.generations.watch_batch(started.id, timeout=0.3):
            pass
    assert timeout.value.explanation is not None
    await ada.pq.generations.cancel_batch(started.id)


async def test_a_foreign_or_unknown_batch_is_not_found(ada, bob):
    started = await ada.pq.generations.start_many([{"prompt": "a boat"}])
    for batch_id in (started.id, uuid4()):
        with pytest.raises(errors.BatchNotFound):
            await bob.pq.generations.get_batch(batch_id)
        with pytest.raises(errors.BatchNotFound):
            await bob.pq.generations.cancel_batch(batch_id)
        with pytest.raises(errors.BatchNotFound):
            await anext(bob.pq.generations.watch_batch(batch_id))
    await ada.pq.generations.cancel_batch(started.id)


async def test_a_repeated_start_of_a_batch_returns_the_first_answer(ada):
    batch_id = uuid4()
    first = await ada.pq.generations.start_many([{"prompt": "a"}], batch_id=batch_id)
    assert first.id == batch_id
    assert await ada.pq.generations.start_many([{"prompt": "b"}], batch_id=batch_id) == first
    await ada.pq.generations.cancel_batch(batch_id)


async def test_an_error_names_the_request(ada):
    with pytest.raises(errors.InvalidInput, match=r"requests\[1\]\.prompt is empty"):
        await ada.pq.generations.start_many([{"prompt": "a"}, {"prompt": ""}])
    with pytest.raises(errors.InvalidInput, match=r"options\.then\[0\]\.model_id"):
        await ada.pq.generations.start(
            "a", then=[GenerationStep(model_id="black-forest-labs/flux-schnell", prompt="x")]
        )


def test_a_sync_client_follows_a_batch(stack):
    with PictureQueue(stack.api_url, stack.service_role_key) as pq:
        user = uuid4()
        started = pq.generations.start_many([{"prompt": "a"}, {"prompt": "b"}], user_id=user)
        states = pq.generations.watch_batch(started.id, timeout=30)
        assert next(states).status == "pending"
        threading.Timer(0.3, pq.generations.cancel_batch, [started.id]).start()
        assert list(states)[-1].status == "cancelled"


async def test_a_picture_that_does_not_exist_fails_the_generation(ada, picture_worker):
    first = await ada.pq.generations.start("a boat", input=SMALL)
    second = await ada.pq.generations.start(
        "", "nightmareai/real-esrgan", {"image": f"generation:{first.id}/2"}
    )
    async with picture_worker():
        with pytest.raises(errors.JobFailed, match="there is no such picture"):
            await ada.pq.jobs.result(second.job_id, timeout=60)
    assert (await ada.pq.generations.get(second.id)).cost_usd == 0
