"""A worker stores a picture and its thumbnail, and only its owner can read them."""

import hashlib
import io

import httpx
import pytest
from PIL import Image as Picture

from picture_queue import WorkerSettings, errors
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.settings import ReplicateSettings

QUICK = HandlerSettings(first_poll_interval=0.05, max_poll_interval=0.1, thumbnail_size=128)


@pytest.fixture
async def generation(stack, service, ada):
    """Return a completed generation of Ada."""
    started = await ada.pq.generations.start("a lighthouse", input={"num_outputs": 2})
    replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
    worker = builtin_worker(service, WorkerSettings(shutdown_grace=0), replicate, QUICK)
    async with worker:
        await service.jobs.result(started.job_id, timeout=40)
    return await ada.pq.generations.get(started.id)


async def test_the_owner_reads_thumbnails_and_others_do_not(generation, ada, bob):
    assert generation.missing_images == ()
    for image in generation.images:
        assert image.thumbnail_path == f"{ada.id}/{generation.id}/{image.n}.thumbnail.webp"
        assert len(image.blurhash) == 28
        data = await ada.pq.generations.download(image)
        assert hashlib.sha256(data).hexdigest() == image.sha256
        small = await ada.pq.generations.download(image, thumbnail=True)
        assert max(Picture.open(io.BytesIO(small)).size) == 128
        assert len(small) < len(data)
        for thumbnail in (False, True):
            with pytest.raises(errors.NotFound):
                await bob.pq.generations.download(image, thumbnail=thumbnail)
            with pytest.raises(errors.NotFound):
                await bob.pq.generations.url(image, thumbnail=thumbnail)
        path = image.thumbnail_path
        assert await bob.supabase.storage.from_("pictures").exists(path) is False
    assert await bob.pq.generations.urls(generation.images, thumbnail=True) == [None, None]


async def test_signed_urls_show_or_save_a_picture(generation, ada):
    (first, _) = await ada.pq.generations.urls(generation.images, thumbnail=True)
    saved = await ada.pq.generations.url(generation.images[0], download=True)
    async with httpx.AsyncClient() as http:
        shown = await http.get(first)
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/webp")
        assert "content-disposition" not in shown.headers
        assert (await http.get(saved)).headers["content-disposition"] == "attachment;"
