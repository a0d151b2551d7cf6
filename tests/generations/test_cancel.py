"""Cancellation and release of generations."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from picture_queue.generations.handler import image_handler
from picture_queue.local.simulator import SimulatorSettings
from picture_queue.providers.base import PredictionRequest
from picture_queue.providers.replicate.lost_predictions import cancel_after
from picture_queue.worker import Cancel

from .world import (
    FAST,
    SCHNELL,
    AnswerGate,
    Database,
    FakeJobContext,
    Generation,
    PredictionRow,
    Store,
    World,
    assert_paid_once,
    providers_of,
)


async def stop_while_running(world: World, cancel: bool) -> Generation:
    """Cancel the handler of a running generation, as a cancel or a release of its job does."""
    generation, job = world.generation(num_outputs=2), FakeJobContext()
    task = asyncio.create_task(world.run(generation, job))
    await job.running.wait()
    job.cancel_requested = cancel
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return generation


async def test_a_cancel_stops_the_prediction() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        await stop_while_running(world, cancel=True)
        assert [prediction["status"] for prediction in await world.predictions()] == ["canceled"]
        assert [row.state for row in world.db.predictions] == ["canceled"]


async def test_the_metrics_of_a_cancelled_prediction_are_stored() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        await stop_while_running(world, cancel=True)
        assert world.db.predictions[0].metrics == (await world.predictions())[0]["metrics"]
        assert world.db.predictions[0].metrics["predict_time"] >= 0


async def test_a_release_leaves_the_prediction_to_the_next_worker() -> None:
    world = World(SimulatorSettings(seconds=0.3))
    async with world.http:
        generation = await stop_while_running(world, cancel=False)
        assert [prediction["status"] for prediction in await world.predictions()] == ["processing"]
        await world.run(generation)
        assert len(world.db.predictions) == 1
        await assert_paid_once(world, generation)


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "released"])
async def test_a_create_in_progress_is_still_recorded(cancel: bool) -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        gate, job = AnswerGate(world.client, "create"), FakeJobContext()
        task = asyncio.create_task(world.run(world.generation(), job, client=gate))
        await gate.has_effect.wait()
        job.cancel_requested = cancel
        task.cancel()
        await asyncio.sleep(0)
        gate.may_answer.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        (row,) = world.db.predictions
        assert row.prediction_id == (await world.predictions())[0]["id"]
        assert row.state == ("aborted" if cancel else "created")  # it had not started
        assert len(await world.paid()) == (0 if cancel else 1)


async def test_a_prediction_whose_create_never_responds_is_cancelled() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        gate, job = AnswerGate(world.client, "create"), FakeJobContext()
        short_cleanup = replace(FAST, cancel_timeout=0.05)
        task = asyncio.create_task(world.run(world.generation(), job, short_cleanup, gate))
        await gate.has_effect.wait()
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await world.paid() == []
        (row,) = world.db.predictions
        (found,) = await world.predictions()
        assert (row.prediction_id, row.state) == (found["id"], found["status"])


async def test_a_prediction_that_succeeded_before_its_search_is_recorded() -> None:
    world = World(SimulatorSettings(seconds=0))
    async with world.http:
        generation, job = world.generation(), FakeJobContext()
        begun = await Store(world.db, generation).begin()
        request = PredictionRequest(
            begun.prediction.id, begun.prediction.created_at, SCHNELL, generation.input, 600
        )
        await world.client.create(SCHNELL, generation.input, cancel_after=cancel_after(request))
        world.now = time.time() + 60  # it has succeeded
        job.cancel_requested = True  # before this attempt: the worker that created it has died
        with pytest.raises(Cancel):
            await world.run(generation, job)
        (row,) = world.db.predictions
        assert [row.prediction_id] == await world.paid()
        assert row.state == "succeeded"


async def test_a_cancel_does_not_stop_predictions_that_may_belong_to_others() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation, job = world.generation(), FakeJobContext()
        # The answer to the create call is lost, so the handler searches for its prediction. The
        # handler finds this foreign prediction with the same input, which may be its own.
        foreign = await world.client.create(SCHNELL, generation.input, cancel_after=3000)
        await world.set_fault(kind="server_error")
        gate: Any = AnswerGate(Store(world.db, generation), "record")
        task = asyncio.create_task(
            image_handler(providers_of(world.client), lambda _: gate, FAST)({}, job)
        )
        await gate.has_effect.wait()
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await world.paid() == [foreign.id]


async def test_a_job_cancelled_before_the_create_makes_no_request(world: World) -> None:
    job = FakeJobContext()
    job.cancel_requested = True
    gate: Any = AnswerGate(Store(world.db, world.generation()), "begin")
    task = asyncio.create_task(
        image_handler(providers_of(world.client), lambda _: gate, FAST)({}, job)
    )
    await gate.has_effect.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.predictions() == []


async def test_a_cancel_ends_even_if_the_prediction_cannot_be_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        await world.set_fault(kind="server_error", on="cancel", count=100)
        await stop_while_running(world, cancel=True)
        assert "was not cancelled" in caplog.text
        assert [row.state for row in world.db.predictions] == ["created"]


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "released"])
async def test_only_a_release_stops_the_storing_of_paid_pictures(cancel: bool) -> None:
    world = World(SimulatorSettings(seconds=0))
    async with world.http:
        generation, job = world.generation(num_outputs=2), FakeJobContext()
        gate = AnswerGate(Store(world.db, generation), "upload")
        handler = image_handler(providers_of(world.client), lambda _: gate, FAST)
        task = asyncio.create_task(handler({}, job))
        await gate.has_effect.wait()
        job.cancel_requested = cancel
        task.cancel()
        await asyncio.sleep(0)
        gate.may_answer.set()
        if cancel:
            assert len((await task)["images"]) == 2
            assert [row.state for row in world.db.predictions] == ["succeeded"]
        else:
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [row.state for row in world.db.predictions] == ["created"]


async def test_a_cancel_waits_for_the_storing_of_pictures_only_for_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("picture_queue.generations.handler._STORE_TIMEOUT", 0.05)
    world = World(SimulatorSettings(seconds=0))
    async with world.http:
        generation, job = world.generation(), FakeJobContext()
        gate = AnswerGate(Store(world.db, generation), "upload")
        handler = image_handler(providers_of(world.client), lambda _: gate, FAST)
        task = asyncio.create_task(handler({}, job))
        await gate.has_effect.wait()
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_prediction_that_succeeded_before_the_cancel_is_recorded_as_succeeded() -> None:
    world = World(SimulatorSettings(seconds=0.3))
    async with world.http:
        job = FakeJobContext()
        gate: Any = AnswerGate(world.client, "get")
        task = asyncio.create_task(world.run(world.generation(), job, client=gate))
        await gate.has_effect.wait()
        await asyncio.sleep(0.5)  # it ends, and the handler has read it before
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [row.state for row in world.db.predictions] == ["succeeded"]
        assert world.db.predictions[0].metrics["image_count"] == 1
        assert world.db.files == {}


async def test_a_retry_of_a_cancelled_generation_makes_its_pictures() -> None:
    world = World(SimulatorSettings(seconds=0))
    async with world.http:
        generation = world.generation()
        row = PredictionRow(
            uuid4(), generation.id, generation.input, datetime.now(UTC), "succeeded", "old"
        )
        world.db.predictions.append(row)
        assert len((await world.run(generation))["images"]) == 1


async def test_a_cancel_that_comes_too_late_leaves_only_pictures_that_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("picture_queue.generations.handler._STORE_TIMEOUT", 0.3)
    world = World(SimulatorSettings(seconds=0))
    async with world.http:
        generation, job = world.generation(num_outputs=3), FakeJobContext()
        store: Any = _SlowLastUpload(world.db, generation)
        handler = image_handler(providers_of(world.client), lambda _: store, FAST)
        task = asyncio.create_task(handler({}, job))
        await store.has_effect.wait()
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [row.state for row in world.db.predictions] == ["succeeded"]
        images = world.db.images[generation.id].values()
        assert len(images) == 2
        assert world.db.files.keys() == {image.path for image in images}


class _SlowLastUpload(Store):
    """A store that writes the third file and never answers."""

    def __init__(self, db: Database, generation: Generation) -> None:
        super().__init__(db, generation)
        self.has_effect = asyncio.Event()

    async def upload(self, path: str, *args: Any, **options: Any) -> None:
        await super().upload(path, *args, **options)
        if "/3." in path:
            self.has_effect.set()
            await asyncio.sleep(60)
