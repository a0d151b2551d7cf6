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

SETTINGS = HandlerSettings(first_poll_interval=0.05, max_poll_interval=0.1, thumbnail_size=128)


@pytest.fixture
async def generation(stack, service, ada):
    """Return a completed generation of Ada with two images."""
    started = await ada.pq.generations.start("a lighthouse", input={"num_outputs": 2})
    replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
    worker = builtin_worker(service, WorkerSettings(shutdown_grace=0), replicate, SETTINGS)
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
        thumbnail_data = await ada.pq.generations.download(image, thumbnail=True)
        assert max(Picture.open(io.BytesIO(thumbnail_data)).size) == 128
        assert len(thumbnail_data) < len(data)
        for thumbnail in (False, True):
            with pytest.raises(errors.NotFound):
                await bob.pq.generations.download(image, thumbnail=thumbnail)
            with pytest.raises(errors.NotFound):
                await bob.pq.generations.url(image, thumbnail=thumbnail)
        path = image.thumbnail_path
        assert await bob.supabase.storage.from_("pictures").exists(path) is False
    assert await bob.pq.generations.urls(generation.images, thumbnail=True) == [None, None]


async def test_a_browser_shows_or_saves_a_picture_as_its_signed_url_requests(generation, ada):
    (thumbnail_url, _) = await ada.pq.generations.urls(generation.images, thumbnail=True)
    download_url = await ada.pq.generations.url(generation.images[0], download=True)
    async with httpx.AsyncClient() as http:
        thumbnail = await http.get(thumbnail_url)
        assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (200, "image/webp")
        assert "content-disposition" not in thumbnail.headers
        download = await http.get(download_url)
        assert download.headers["content-disposition"] == "attachment;"
