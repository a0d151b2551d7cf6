"""Upload a picture, and start a generation that upscales it."""

import asyncio
from base64 import b64decode
from uuid import uuid4

from picture_queue import AsyncPictureQueue

PIXEL = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def main() -> None:
    """Upload the picture to the folder of a user, and use it as an input."""
    async with AsyncPictureQueue.from_env() as pq:
        user_id = uuid4()  # with a user's token: the id of this user
        file = await pq.generations.upload(PIXEL, user_id=user_id)
        assert file.startswith(f"storage:uploads/{user_id}/")
        started = await pq.generations.start(
            "", "nightmareai/real-esrgan", {"image": file}, user_id=user_id
        )
        print(started.id)
        await pq.generations.cancel(started.id)  # this example has no worker


asyncio.run(main())
