"""The built-in worker for image generation."""

import pytest

from picture_queue import AsyncPictureQueue
from picture_queue.errors import SettingsError
from picture_queue.generations.builtin import builtin_worker
from picture_queue.settings import ReplicateSettings


async def test_a_worker_that_cannot_store_images_is_refused():
    async with AsyncPictureQueue(database_url="postgresql://localhost/nowhere") as client:
        with pytest.raises(SettingsError, match=r"Set SUPABASE_URL and a (service )?key"):
            builtin_worker(client, replicate=ReplicateSettings("token"))
