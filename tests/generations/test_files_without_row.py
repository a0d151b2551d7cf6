"""Files that a dead worker has uploaded without saving their rows, and what the next one does."""

from dataclasses import replace
from typing import Any

import pytest

from picture_queue.errors import StaleLease
from picture_queue.generations.moderation import Moderation
from picture_queue.generations.store_images import delete_files_without_row
from picture_queue.local.simulator import SimulatorSettings
from picture_queue.worker import Cancel, Park, PermanentFailure

from .world import FAST, SCHNELL, FakeJobContext, Generation, Store, World


async def die_after_upload(world: World, generation: Generation, name: str = "1.webp") -> str:
    """Do what a worker does that dies after it has uploaded a file; return the path of the file."""
    store = Store(world.db, generation)
    begun = await store.begin()
    created = await world.client.create(SCHNELL, generation.input, cancel_after=600)
    await store.record(begun.prediction.id, created.id)
    path = f"{generation.user_id}/{generation.id}/{name}"
    await store.upload(path, b"RIFF", "image/webp")
    return path


async def test_the_files_are_deleted_if_the_job_was_cancelled(world: World) -> None:
    generation, job = world.generation(), FakeJobContext()
    await die_after_upload(world, generation)
    job.cancel_requested = True
    with pytest.raises(Cancel):
        await world.run(generation, job)
    assert world.db.files == {}
    assert {row.state for row in world.db.predictions} <= {"succeeded", "aborted", "canceled"}


async def test_the_files_are_deleted_if_the_next_attempt_fails(world: World) -> None:
    generation = world.generation()
    await die_after_upload(world, generation)
    refusing = replace(FAST, moderation=Moderation(moderate_image=lambda _: "No boats, please."))
    with pytest.raises(PermanentFailure, match="No boats"):
        await world.run(generation, FakeJobContext(attempt=2), refusing)
    assert world.db.files == {}


async def test_a_file_that_the_next_attempt_does_not_store_is_deleted(world: World) -> None:
    generation = world.generation()
    await die_after_upload(world, generation, "1.gif")
    await world.run(generation, FakeJobContext(attempt=2))
    (image,) = world.db.images[generation.id].values()
    assert list(world.db.files) == [image.path]
    assert image.mime_type == "image/webp"


async def test_a_worker_whose_lease_has_ended_deletes_no_files(world: World) -> None:
    generation = world.generation()
    path = await die_after_upload(world, generation)
    stale: Any = Store(world.db, generation)
    begun = await stale.begin()
    Store(world.db, generation)  # another worker has claimed the job
    with pytest.raises(StaleLease):
        await delete_files_without_row(stale, begun)
    assert list(world.db.files) == [path]


async def test_the_files_are_kept_while_the_job_is_parked() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation = world.generation()
        path = await die_after_upload(world, generation)
        with pytest.raises(Park):
            await world.run(generation, FakeJobContext(attempt=2), replace(FAST, park_after=0.0))
        assert list(world.db.files) == [path]
