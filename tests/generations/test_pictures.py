"""A generation from the request to the stored images, with the simulator."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from picture_queue.generations.image_info import read_image
from picture_queue.generations.progress import estimate_percent
from picture_queue.local.simulator import SimulatorSettings
from picture_queue.providers.replicate.catalog import models
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.records import PredictionRow

from .world import (
    DEV,
    FAST,
    SCHNELL,
    SDXL,
    SMALL,
    FakeDownloads,
    FakeJobContext,
    Generation,
    UnusualClient,
    World,
)


async def test_a_generation_produces_images(world: World) -> None:
    generation = world.generation(num_outputs=2, seed=7)
    result = await world.run(generation)
    folder = f"{generation.user_id}/{generation.id}"
    assert [image["path"] for image in result["images"]] == [f"{folder}/1.webp", f"{folder}/2.webp"]
    for image in result["images"]:
        data, content_type = world.db.files[image["path"]]
        assert content_type == image["mime_type"] == "image/webp"
        assert (image["width"], image["height"], image["bytes"]) == (512, 512, len(data))
        assert read_image(data) is not None
    assert list(world.db.images[generation.id]) == [1, 2]
    (row,) = world.db.predictions
    assert row.state == "succeeded"
    assert row.metrics is not None
    assert row.metrics["image_count"] == 2
    assert await world.paid() == [row.prediction_id]


async def test_images_without_an_owner_are_stored_in_the_folder_shared(world: World) -> None:
    generation = Generation(SCHNELL, {"prompt": "a boat", **SMALL}, user_id=None)
    result = await world.run(generation)
    assert result["images"][0]["path"] == f"shared/{generation.id}/1.webp"


async def test_progress_increases_and_reaches_100_only_at_the_end() -> None:
    world = World(SimulatorSettings(seconds=0.3))
    async with world.http:
        job = FakeJobContext()
        await world.run(world.generation(DEV), job)
    percents = [percent for percent, _ in job.reported]
    messages = [message for _, message in job.reported]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert 30 < percents[-1] <= 99
    assert messages[0] == "waiting for the model"
    assert any(message and message.endswith("of 28") for message in messages)
    assert messages[-1] == "storing the pictures"
    assert len(set(job.reported)) == len(job.reported)


async def test_the_progress_of_a_model_that_reports_none_is_an_estimate() -> None:
    world = World(SimulatorSettings(seconds=0.3))
    async with world.http:
        job = FakeJobContext()
        await world.run(Generation("black-forest-labs/flux-1.1-pro", {"prompt": "a boat"}), job)
    percents = [percent for percent, message in job.reported if message == "generating (estimated)"]
    assert percents == sorted(percents)
    assert 0 < percents[-1] < 10  # the model typically takes 8.7 seconds, the simulator 0.3


def test_an_estimate_never_reaches_100() -> None:
    ages = (0, 1, 4, 8, 16, 10_000)
    assert [estimate_percent(age, 8) for age in ages] == [0, 13, 45, 70, 91, 95]


async def test_a_model_without_a_known_run_time_leaves_the_percentage_at_0() -> None:
    world = World(SimulatorSettings(seconds=0.1))
    async with world.http:
        job = FakeJobContext()
        inputs = {"prompt": "a boat", "input_image": "https://example.com/a.png"}
        await world.run(Generation("black-forest-labs/flux-kontext-max", inputs), job)
    assert {percent for percent, _ in job.reported} == {0}
    assert (0, "generating") in job.reported


async def test_a_full_progress_bar_before_the_end_is_not_reported_as_100(world: World) -> None:
    job = FakeJobContext()
    full = "100%|██████████| 20/20 [00:01<00:00, 14.02it/s]\n"
    await world.run(world.generation(), job, client=UnusualClient(world.client, logs=full))
    assert (99, "generating, step 20 of 20") in job.reported
    assert max(percent for percent, _ in job.reported) == 99


async def test_a_generation_of_a_community_model_runs_by_version(world: World) -> None:
    generation = Generation(SDXL, {"prompt": "a boat", "width": 256, "height": 256})
    await world.run(generation)
    (prediction,) = await world.predictions()
    assert (prediction["model"], prediction["version"]) == (SDXL, models()[SDXL].version)


async def test_a_vector_image_is_stored_as_svg(world: World) -> None:
    result = await world.run(Generation("recraft-ai/recraft-v3-svg", {"prompt": "a fox"}))
    assert result["images"][0]["mime_type"] == "image/svg+xml"
    assert result["images"][0]["path"].endswith("/1.svg")


async def test_every_prediction_has_a_deadline(world: World) -> None:
    await world.run(world.generation())
    (prediction,) = await world.predictions()
    span = datetime.fromisoformat(prediction["deadline"]) - datetime.fromisoformat(
        prediction["created_at"]
    )
    assert 600 <= span.total_seconds() < 700


async def test_an_svg_without_a_usable_size_is_stored(world: World) -> None:
    data = b'<svg viewBox="0 0 1e999 1"></svg>'
    result = await world.run(world.generation(), client=FakeDownloads(world.client, data))
    assert (result["images"][0]["width"], result["images"][0]["height"]) == (None, None)


async def test_the_number_of_concurrent_downloads_is_limited(world: World) -> None:
    counting = _CountingClient(world.client)
    settings = replace(FAST, max_parallel=2)
    await world.run(world.generation(num_outputs=4), settings=settings, client=counting)
    assert counting.peak == 2


class _CountingClient:
    """A client that counts its concurrent downloads."""

    def __init__(self, client: ReplicateClient) -> None:
        self._client = client
        self._active = 0
        self.peak = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def download_into(self, link: str, sink: Any) -> None:
        self._active += 1
        self.peak = max(self.peak, self._active)
        await self._client.download_into(link, sink)
        self._active -= 1


def test_the_repr_of_a_row_omits_the_prompt() -> None:
    row = PredictionRow(
        id=uuid4(), state="creating", input={"prompt": "secret"}, created_at=datetime.now(UTC)
    )
    assert "secret" not in repr(row)
