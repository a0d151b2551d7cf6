"""List, search, mark, reuse and delete generations. Run gallery.sql first, which offers a model."""

import asyncio
from uuid import uuid4

from PIL import Image

from picture_queue import AsyncPictureQueue, Worker, add_generations
from picture_queue import Image as Picture
from picture_queue.errors import GenerationNotFound, NotFound


def paint(prompt: str, seed: int = 0) -> Image.Image:
    """Make a picture of one colour."""
    return Image.new("RGB", (64, 64), (seed % 256, len(prompt) % 256, 128))


async def main() -> None:
    """Use the gallery as a signed-in user would; a service key names the user instead."""
    async with AsyncPictureQueue.from_env() as pq:
        worker = Worker(pq)
        add_generations(worker, pq, providers={"flat": paint})
        async with worker:
            user = uuid4()
            for subject in ("lighthouse at dusk", "red lighthouse", "red boat"):
                started = await pq.generations.start(f"A {subject}", "my/flat", user_id=user)
                await pq.jobs.result(started.job_id, timeout=30)

            found = await pq.generations.list(user_id=user, search="lighthouse red")
            assert [generation.prompt for generation in found] == ["A red lighthouse"]
            await pq.generations.set_favourite(found[0].id)
            assert await pq.generations.list(user_id=user, favourite=True)

            # Read all generations, one page after another.
            page, prompts = await pq.generations.list(user_id=user, limit=2), []
            while page:
                prompts += [generation.prompt for generation in page]
                page = await pq.generations.list(user_id=user, limit=2, before=page[-1])
            assert len(prompts) == 3

            # The same request returns the finished generation; no other picture is made.
            again = await pq.generations.start(
                "A red lighthouse", "my/flat", user_id=user, reuse=True
            )
            assert again.reused and again.id == found[0].id

            picture = found[0].images[0]
            await pq.generations.delete(found[0].id)
            try:
                await pq.generations.get(found[0].id)
            except GenerationNotFound:
                print("hidden")
            for _ in range(300):
                if not await has_file(pq, picture):
                    break
                await asyncio.sleep(0.1)
            else:
                raise TimeoutError("the file still exists")
            print("deleted")


async def has_file(pq: AsyncPictureQueue, picture: Picture) -> bool:
    """Return whether the file of a picture exists."""
    try:
        return bool(await pq.generations.download(picture))
    except NotFound:
        return False


asyncio.run(main())
