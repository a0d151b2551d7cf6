"""The files of the bucket `pictures` that a user can read."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from storage3.exceptions import StorageApiError

from picture_queue import Worker, WorkerSettings
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.generations.store_images import _OutputWriter
from picture_queue.generations.thumbnails import ThumbnailMaker
from picture_queue.settings import ReplicateSettings

SETTINGS = HandlerSettings(first_poll_interval=0.05)


@pytest.fixture
def new_builtin_worker(stack: Any, service: Any) -> Callable[[], Worker]:
    """Return a function that creates a worker with the built-in handlers of generations."""

    def create() -> Worker:
        replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
        settings = WorkerSettings(shutdown_grace=0, poll_interval=0.1)
        return builtin_worker(service, settings, replicate, SETTINGS)

    return create


async def store_file(stack: Any, path: str) -> None:
    """Store a file with the service key, as a worker does."""
    async with httpx.AsyncClient(headers={"apikey": stack.secret_key}, timeout=10) as http:
        answer = await http.post(
            f"{stack.api_url}/storage/v1/object/pictures/{path}",
            content=b"x",
            headers={"content-type": "image/png", "authorization": f"Bearer {stack.secret_key}"},
        )
        answer.raise_for_status()


async def can_read(user: Any, path: str) -> bool:
    """Try to download, sign and list a file; all must have the same outcome."""
    bucket = user.supabase.storage.from_("pictures")
    folder, _, name = path.rpartition("/")
    outcomes = {name in [entry["name"] for entry in await bucket.list(folder)]}
    for read in (bucket.download(path), bucket.create_signed_url(path, 60)):
        try:
            await read
            outcomes.add(True)
        except StorageApiError as error:
            assert "not found" in str(error).lower(), error
            outcomes.add(False)
    (can,) = outcomes
    return can


async def test_a_user_reads_only_files_of_a_generation_that_have_a_row(
    stack, ada, bob, service, new_builtin_worker
):
    """A worker that is killed after an upload leaves a file without a row."""
    started = await ada.pq.generations.start("a boat", input={"megapixels": "0.25"})
    async with new_builtin_worker():
        await ada.pq.jobs.result(started.job_id, timeout=30)
    (image,) = (await ada.pq.generations.get(started.id)).images
    folder = f"{ada.id}/{started.id}"
    left_behind = [
        f"{folder}/2.png",
        f"{folder}/inputs/{ada.id}/a.png",
        f"{ada.id}/{uuid4()}/1.png",
    ]
    own = f"{ada.id}/avatars/1.png"  # a file of the project's own code
    for path in (*left_behind, own):
        await store_file(stack, path)
    assert image.thumbnail_path
    for path in (image.path, image.thumbnail_path, own):
        assert await can_read(ada, path), path
        assert not await can_read(bob, path), path
    for path in left_behind:
        assert not await can_read(ada, path), path
    assert await ada.pq.generations.download(image)
    await ada.pq.generations.delete(started.id)
    assert not await can_read(ada, image.path)


async def test_a_stored_picture_is_not_readable_while_its_thumbnail_is_made(
    ada, new_builtin_worker, monkeypatch
):
    """Otherwise a user could read the picture, and cancel before the generation is charged."""
    uploaded: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    released = asyncio.Event()
    upload, make = _OutputWriter._upload, ThumbnailMaker.make

    async def upload_and_signal(self: Any, n: int, path: str, *arguments: Any) -> None:
        await upload(self, n, path, *arguments)
        uploaded.set_result(path)

    async def make_when_released(self: Any, *arguments: Any) -> Any:
        await released.wait()
        return await make(self, *arguments)

    monkeypatch.setattr(_OutputWriter, "_upload", upload_and_signal)
    monkeypatch.setattr(ThumbnailMaker, "make", make_when_released)
    started = await ada.pq.generations.start("a boat", input={"megapixels": "0.25"})
    async with new_builtin_worker():
        path = await asyncio.wait_for(uploaded, 30)
        assert not await can_read(ada, path)
        released.set()
        await ada.pq.jobs.result(started.job_id, timeout=30)
    assert await can_read(ada, path)


async def test_the_rows_of_a_long_list_are_found_by_an_index(db, ada, bob):
    """A list of 1,000 files reads one row of `images` for each of them."""
    count = 1000
    transaction = db.transaction()
    await transaction.start()
    try:
        job_id = await db.fetchval("select enqueue_job('other', '{}')")
        generations = await db.fetch(
            """insert into generations (user_id, job_id, model_id, prompt)
            select $1, $2, 'm', 'p' from generate_series(1, $3) returning id""",
            UUID(str(ada.id)),
            job_id,
            count // 10,
        )
        await db.execute(
            """insert into images (generation_id, user_id, n, path, mime_type)
            select g, $1::uuid, n, format('%s/%s/%s.png', $1::uuid, g, n), 'image/png'
            from unnest($2::uuid[]) g, generate_series(1, 10) n""",
            UUID(str(ada.id)),
            [row["id"] for row in generations],
        )
        paths = [
            row["path"]
            for row in await db.fetch("select path from images where user_id = $1", ada.id)
        ]
        assert len(paths) == count
        await db.execute("set local role authenticated")
        for user, readable in ((ada, count), (bob, 0)):
            claims = json.dumps({"role": "authenticated", "sub": str(user.id)})
            await db.execute("select set_config('request.jwt.claims', $1, true)", claims)
            before = await _scans(db)
            found = await db.fetchval(
                "select count(*) from unnest($1::text[]) p where picture_queue.may_read_picture(p)",
                paths,
            )
            after = await _scans(db)
            assert found == readable
            assert after["seq_scan"] == before["seq_scan"]
            assert after["idx_scan"] - before["idx_scan"] == count
            assert after["idx_tup_fetch"] - before["idx_tup_fetch"] <= 10 * count
    finally:
        await transaction.rollback()


async def _scans(db: Any) -> Any:
    return await db.fetchrow(
        "select seq_scan, idx_scan, idx_tup_fetch from pg_stat_xact_user_tables"
        " where relid = 'public.images'::regclass"
    )
